"""Everything that reads from the Hugging Face Hub or writes to it: the real client libraries against a server on this
machine."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow
import pytest
import torch
from hub_client import Answer, HubClient
from hub_server import HubServer, Request
from PIL import Image
from pyarrow import parquet
from saved_run import save_run

from unigrpo.models.checkpoint_io import load_policy

TINY = Path(__file__).parents[2] / "examples" / "tiny"
CARD = b"""---
license: mit
configs:
- config_name: main
  data_files:
  - {split: train, path: "main/train-*"}
  - {split: test, path: "main/test-*"}
- config_name: socratic
  data_files:
  - {split: train, path: "socratic/train-*"}
---
# Questions
"""
QUICK = "import time, torch, transformers, datasets, unigrpo.cli.main; time.sleep = lambda seconds: None"
"""Imports, and retries of the client libraries without their pauses."""


def table(rows: list[dict[str, str]]) -> bytes:
    content = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), content)
    return content.getvalue()


def sums() -> dict[str, bytes]:
    """A set with the files and columns of GSM8K."""
    rows = [{"question": f"What is {i}+1?", "answer": f"One more than {i}.\n#### {i + 1}"} for i in range(6)]
    names = ("main/train-00000-of-00001", "main/test-00000-of-00001", "socratic/train-00000-of-00001")
    return {"README.md": CARD} | {f"{name}.parquet": table(rows[i:]) for i, name in enumerate(names)}


def shapes() -> dict[str, bytes]:
    """A set with embedded images and without a README."""
    rows = []
    for red in (0, 255):
        content = io.BytesIO()
        Image.new("RGB", (16, 16), (red, 0, 0)).save(content, "PNG")
        rows.append({"images": [{"bytes": content.getvalue(), "path": None}], "problem": "<image>Red?", "answer": "1"})
    features = {"images": datasets.List(datasets.Image()), "problem": datasets.Value("string")}
    features["answer"] = datasets.Value("string")
    content = io.BytesIO()
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(content)
    return {"data/train-00000-of-00001.parquet": content.getvalue()}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    server = HubServer()
    server.add("datasets", "openai/gsm8k", sums())
    server.add("datasets", "other/gated", sums(), "gated")
    server.add("datasets", "me/private", sums(), "private")
    server.add("datasets", "me/shapes", shapes())
    tiny = server.add("models", "other/mixcot", TINY / "mixcot")
    tiny.files |= {"pytorch_model.bin": b"pickled", "modeling.py": b"raise SystemExit", "image.png": b"picture"}
    server.add("models", "other/gated", TINY / "mixcot", "gated")
    server.add("models", "other/gated-clip", TINY / "clip", "gated")
    server.add("models", "other/clip", TINY / "clip")
    server.add("models", "other/image_reward", TINY / "image_reward")
    yield server
    server.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def client(hub: HubServer, folder: Path) -> Iterator[HubClient]:
    started = HubClient(hub.endpoint, folder / "home", folder)
    started.python(QUICK)
    yield started
    started.close()


@pytest.fixture
def offline(client: HubClient) -> Iterator[HubClient]:
    """The process as if it had been started with ``HF_HUB_OFFLINE=1``, which the libraries read at their import."""
    code = (
        "import datasets, huggingface_hub; datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE"
    )
    client.python(f"{code} = True")
    yield client
    client.python(f"{code} = False")


def error_of(answer: Answer) -> str:
    """Returns the one line with which a command ended."""
    assert answer.status == 2, answer
    lines = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert lines and lines[-1] == answer.err.splitlines()[-1], answer.err
    assert "Traceback" not in answer.err and "HTTP Request" not in answer.err
    return lines[-1]


def fetched(requests: list[Request]) -> set[str]:
    """Returns the names of the files whose content was asked for."""
    return {asked.path.split("/")[-1] for asked in requests if asked.method == "GET" and "/resolve/" in asked.path}


def test_a_configuration_is_read_and_downloaded_once(hub: HubServer, client: HubClient) -> None:
    answer = client.run("data", "openai/gsm8k:main", "--rows", "1")
    assert answer.status == 0 and "prompt: What is 0+1?\ngold:   1\n" in answer.out, answer
    before = len(hub.requests)
    again = client.run("data", "openai/gsm8k:main", "--rows", "1", "--split", "test")
    assert "prompt: What is 1+1?\ngold:   2\n" in again.out
    assert not fetched(hub.requests[before:])
    assert not any("socratic" in request.path for request in hub.requests)


@pytest.mark.parametrize(
    ("arguments", "token", "message"),
    [
        (["openai/gsm8k"], "", "it has the configurations 'main', 'socratic'; name one behind a colon"),
        (["openai/gsm8k:hard"], "", "'hard' not found. Available: ['main', 'socratic']"),
        (["openai/gsm8k:main", "--split", "dev"], "", "Unknown split \"dev\". Should be one of ['train', 'test']"),
        (["other/gated:main"], "", "accept its terms at {hub}/datasets/other/gated and log in (`hf auth login`"),
        (["other/gated:main"], "hf_reads", "terms at {hub}/datasets/other/gated with the account of your token"),
        (["me/private:main"], "", "no such dataset, or it is private; look at the name ({hub}/datasets/me/private)"),
        (["me/private:main"], "hf_reads", "or use a token that may read it"),
        (["me/absent"], "hf_wrong", "the Hub does not accept your token; make one at {hub}/settings/tokens"),
        (["data/rl/absent"], "", "data/rl/absent: no file here"),
    ],
)  # fmt: skip
def test_a_data_set_that_cannot_be_read_says_what_to_do(
    hub: HubServer, client: HubClient, arguments: list[str], token: str, message: str
) -> None:
    error = error_of(client.run("data", *arguments, token=token))
    assert message.format(hub=hub.endpoint) in error


def test_those_who_may_read_gated_and_private_sets_do(hub: HubServer, client: HubClient) -> None:
    hub.accepted.add(("hf_reads", "other/gated"))
    assert client.run("data", "other/gated:main", token="hf_reads").status == 0
    hub.accepted.clear()
    assert client.run("data", "me/private:main", token="hf_writes").status == 0


def test_embedded_images_are_read(client: HubClient, folder: Path) -> None:
    answer = client.run("data", "me/shapes", "--images", "images", "--resolution", "16")
    assert "task:   mmu\nprompt: Red?\ngold:   1\n" in answer.out, answer
    assert Image.open(folder / "images" / "00001.png").getpixel((8, 8)) == (255, 0, 0)


@pytest.mark.slow
def test_another_process_reads_embedded_images_without_the_hub(
    hub: HubServer, client: HubClient, folder: Path
) -> None:
    code = (
        "from unigrpo.data.embedded_images import shown_name; from unigrpo.data.prompts import load_prompts\n"
        "print(*[p.images[0] for s in ('train', 'train[1:]') for p in load_prompts('me/shapes', split=s)], sep='\\n')"
    )
    names = client.python(code).out.splitlines()
    worker = HubClient(hub.endpoint, folder / "home", folder)
    before = len(hub.requests)
    answer = worker.python(
        "from unigrpo.data.embedded_images import shown_name; from unigrpo.data.images import read_image\n"
        f"for name in {names!r}: print(read_image(name).getpixel((8, 8))[0], shown_name(name))"
    )
    shown = ["0 me/shapes[train][0]", "255 me/shapes[train][1]", "255 me/shapes[train[1:]][0]"]
    assert answer.out == "".join(f"{line}, column 'images'\n" for line in shown), answer
    assert len(hub.requests) == before
    elsewhere = [name.replace(str(folder), "/not/shared") for name in names[:1]]
    answer = worker.python(f"from unigrpo.data.images import read_image\nread_image({elsewhere[0]!r})")
    worker.close()
    assert "and the cache of the Hub (HF_HOME) must lie on a file system that all nodes see" in answer.err


def test_a_download_that_breaks_goes_on_and_one_that_breaks_for_good_is_an_error(
    hub: HubServer, client: HubClient
) -> None:
    file = "main/train-00000-of-00001.parquet"
    hub.add("datasets", "me/cut", sums() | {file: table([{"question": "cut", "answer": "#### 1"}])})
    hub.cuts[file] = 99
    error = error_of(client.run("data", "me/cut:main"))
    assert "the download broke off (RemoteProtocolError: " in error and "start the same command again" in error
    hub.cuts[file] = 1
    answer = client.run("data", "me/cut:main")
    assert answer.status == 0 and "prompt: cut" in answer.out, answer
    assert answer.err.count("Trying to resume download") == 1
    hub.cuts.clear()


def test_a_set_is_prepared_by_its_name(hub: HubServer, client: HubClient, folder: Path) -> None:
    answer = client.run("prepare", "gsm8k", "--output", "gsm8k.jsonl")
    assert answer.status == 0 and "6  kept" in answer.out, answer
    assert json.loads((folder / "gsm8k.jsonl").read_text().splitlines()[0])["label"] == "1"
    record = json.loads((folder / "gsm8k.jsonl.source.json").read_text())
    assert (record["source"], record["licence"]) == ("openai/gsm8k:main", "mit")
    hub.add("datasets", "me/other", sums() | {"README.md": CARD.replace(b"license: mit", b"license: cc-by-nc-4.0")})
    answer = client.run("prepare", "gsm8k", "--source", "me/other:main", "--output", "other.jsonl")
    assert "licence cc-by-nc-4.0; openai/gsm8k:main was known under MIT" in answer.out, answer


def test_a_model_generates_with_the_image_tokenizer_of_its_repository(
    hub: HubServer, client: HubClient, folder: Path
) -> None:
    before = len(hub.requests)
    answer = client.run(
        "generate", "--model", "other/mixcot", "--prompts", "a red circle", "--output", "drawn", "--task", "t2i"
    )
    assert answer.status == 0, answer
    assert Image.open(folder / "drawn" / "images" / "00000.png").size == (64, 64)
    asked = {request.path.rpartition("/")[-1] for request in hub.requests[before:] if "/resolve/" in request.path}
    assert not asked & {"pytorch_model.bin", "modeling.py", "image.png"}
    large = [request for request in hub.requests[before:] if request.path.startswith("/lfs/")]
    assert len(large) == 2, "each of the two files of weights once"


def test_a_plan_takes_a_model_whose_weights_were_downloaded(hub: HubServer, client: HubClient) -> None:
    hub.add("models", "other/copy", TINY / "model")
    answer = client.python(
        "from unigrpo.cli.plan import is_local_checkpoint; from unigrpo.models.checkpoint_io import load_config\n"
        "from unigrpo.models.weight_files import local_folder\n"
        "load_config('other/copy'); print(is_local_checkpoint('other/copy'))\n"
        "local_folder('other/copy'); print(is_local_checkpoint('other/copy'), is_local_checkpoint('no/such'))"
    )
    assert answer.out == "False\nTrue False\n", answer


def test_a_source_of_a_stage_is_read_by_its_name(client: HubClient) -> None:
    answer = client.python(
        "import torch; from unigrpo.config.corpora import ColumnConfig, SourceConfig\n"
        "from unigrpo.data.corpora.table_sources import TextSource\n"
        "columns = ColumnConfig(text='question')\n"
        "config = SourceConfig(kind='text', task='lm', path='openai/gsm8k:main', columns=columns, split='test')\n"
        "print(TextSource(config).read(0, torch.Generator()).text)"
    )
    assert answer.out == "What is 1+1?\n", answer


def test_workers_of_a_stage_read_its_sources_without_the_hub(hub: HubServer, client: HubClient) -> None:
    code = (
        "import torch; from unigrpo.config.corpora import ColumnConfig, SourceConfig\n"
        "from unigrpo.config.denoising import ModalityConfig, StageConfig, ValidationConfig\n"
        "from unigrpo.data.corpora.table_sources import TextSource; from unigrpo.data import hub\n"
        "from unigrpo.data.corpora.dataloader import with_local_tables\n"
        "hub.download.cache_clear()\n"
        "columns = ColumnConfig(text='question')\n"
        "source = SourceConfig(kind='text', task='lm', path='me/stage:main', columns=columns)\n"
        "lm = ModalityConfig(batch_size=1, sources={'sums': source})\n"
        "config = with_local_tables(StageConfig(lm=lm, validation=ValidationConfig(lm=lm)))\n"
        "hub.download.cache_clear()\n"
        "for found in (config.lm, config.validation.lm):\n"
        "    print(TextSource(found.sources['sums']).read(0, torch.Generator()).text)"
    )
    hub.add("datasets", "me/stage", sums())
    assert client.python(code).out == "What is 0+1?\n" * 2
    before = len(hub.requests)
    assert client.python(code).out == "What is 0+1?\n" * 2
    asked = sum("me/stage/resolve/main/" in request.path for request in hub.requests[before:])
    assert asked == 1, "the name is looked up once, for both sources"


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        (
            "other/gated",
            "",
            "the repository is gated; accept its terms at {hub}/other/gated and log in (`hf auth login`",
        ),
        ("other/gated", "hf_reads", "accept its terms at {hub}/other/gated with the account of your token"),
        ("other/absent", "", "the Hub has no such model, or it is private; look at the name ({hub}/other/absent)"),
        ("other/absent", "hf_wrong", "the Hub does not accept your token"),
    ],
)
def test_a_model_that_cannot_be_read_says_what_to_do(
    hub: HubServer, client: HubClient, name: str, token: str, message: str
) -> None:
    flags = ["--task", "text", "--prompts", "1+1=", "--output", "none"]
    assert message.format(hub=hub.endpoint) in error_of(client.run("generate", "--model", name, *flags, token=token))


def test_the_library_and_the_auto_classes_load_a_model_by_its_name(client: HubClient) -> None:
    answer = client.python(
        "import unigrpo; from transformers import AutoModel\n"
        "policy, model = unigrpo.Policy.from_pretrained('other/mixcot'), AutoModel.from_pretrained('other/mixcot')\n"
        "print(policy.image_tokenizer is not None, policy.sampling.resolution, type(model).__name__)"
    )
    assert answer.out == "True 64 MMadaModelLM\n", answer


EVALUATION = [
    "--eval.dataset", "openai/gsm8k:main", "--eval.max_samples", "2", "--eval.n_samples_per_prompt", "1",
    "--ds.param_dtype", "fp32", "--rollout.text.max_new_tokens", "4", "--rollout.text.block_length", "4",
    "--rollout.text.num_denoising_steps", "2", "--reward.terms", "[{name: math_answer}]",
]  # fmt: skip


def test_a_checkpoint_is_evaluated_by_its_name(client: HubClient, folder: Path) -> None:
    answer = client.run("evaluate", "--models", "other/mixcot", "--output", "evaluated", *EVALUATION)
    assert answer.status == 0, answer
    assert json.loads((folder / "evaluated" / "results.json").read_text())["models"].keys() == {"other/mixcot"}
    assert '"other/mixcot"' in (folder / "evaluated" / "samples.jsonl").read_text()


@pytest.mark.slow
def test_the_processes_of_an_evaluation_ask_the_hub_for_nothing(hub: HubServer, client: HubClient) -> None:
    numbers = []
    for processes in ("1", "2"):
        output, before = f"evaluated_{processes}", len(hub.requests)
        answer = client.run(
            "evaluate", "--models", "other/mixcot", "--output", output, "--num_processes", processes, *EVALUATION
        )
        assert answer.status == 0, answer
        numbers.append(sum("other/mixcot/revision/" in request.path for request in hub.requests[before:]))
    assert numbers[0] == numbers[1]


def test_models_of_rewards_are_found_by_name_with_config_and_tokenizer(client: HubClient, folder: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    answer = client.python(
        "from PIL import Image\nfrom rewards.base import RewardInput\n"
        "from rewards.loading import load_reward, local_options\n"
        "sample = [RewardInput(prompt='a red circle', completion='', image=Image.open('red.png'))]\n"
        "for name, model in (('clip_score', 'clip'), ('image_reward', 'image_reward')):\n"
        "    by_name = {'model': f'other/{model}'}\n"
        f"    options = [by_name, local_options(name, by_name), {{'model': {str(TINY)!r} + '/' + model}}]\n"
        "    print(len({load_reward(name, option)(sample)[0] for option in options}))\n"
    )
    assert answer.out == "1\n1\n", answer


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("other/gated-clip", "it is gated; accept its terms on its page, and log in (`hf auth login`, or HF_TOKEN)"),
        ("other/absent", "there is none, it is private, or your token is wrong; look at the name, and log in"),
    ],
)
@pytest.mark.parametrize("reward", ["clip_score", "image_reward"])
def test_a_model_of_a_reward_that_cannot_be_read_says_what_to_do(
    client: HubClient, reward: str, model: str, message: str
) -> None:
    answer = client.python(
        "from rewards.loading import load_reward\n"
        f"try: load_reward({reward!r}, {{'model': {model!r}}}).load()\n"
        "except ValueError as error: print(error)"
    )
    assert (
        answer.out == f"model {model!r} is no folder here, and the Hub did not give it: {message}\n"
        or message in answer.out
    ), answer


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run of the tiny text model with checkpoints."""
    weights = load_policy(TINY / "model", torch.float32, "sdpa").state_dict()
    return save_run(folder / "run", TINY / "model", weights)


def test_a_policy_is_pushed_and_loads_by_its_name(hub: HubServer, client: HubClient, run: Path) -> None:
    answer = client.run("export", str(run), "--push_to_hub", "me/sums", "--private", token="hf_writes")
    assert answer.status == 0 and f"pushed to {hub.endpoint}/me/sums\n" in answer.out, answer
    assert "hf_writes" not in answer.out + answer.err
    pushed = hub.repositories["models", "me/sums"]
    written = {path.name: path.read_bytes() for path in (run / "policy_step_4").iterdir()}
    assert pushed.files == written and pushed.access == "private"
    assert {"README.md", "config.json", "model.safetensors", "sampling.json", "tokenizer.json"} <= written.keys()
    assert b"hf_writes" not in b"".join(written.values())
    flags = ["--task", "text", "--prompts", "1+1=", "--output", "pushed"]
    assert "no such model, or it is private" in error_of(client.run("generate", "--model", "me/sums", *flags))
    loaded = client.run("generate", "--model", "me/sums", *flags, token="hf_writes")
    assert loaded.status == 0, loaded


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("me/other", "hf_wrong", "the Hub does not accept your token; make one at {hub}/settings/tokens and log in"),
        ("other/sums", "hf_writes", "your token may not do this (HfHubHTTPError: 403 Forbidden: You don't have the"),
    ],
)
def test_a_push_that_the_hub_refuses_is_one_line_and_the_folder_stays(
    hub: HubServer, client: HubClient, run: Path, name: str, token: str, message: str
) -> None:
    output = run / f"to_{name.replace('/', '_')}"
    error = error_of(client.run("export", str(run), "--output", str(output), "--push_to_hub", name, token=token))
    assert f"--push_to_hub {name}: the Hub did not take it: " in error and message.format(hub=hub.endpoint) in error
    assert f"to send it, call `hf upload {name} {output}`" in error
    assert (output / "README.md").is_file() and ("models", name) not in hub.repositories
    assert token not in error


def test_a_push_without_a_token_is_refused_before_the_export(client: HubClient, run: Path) -> None:
    error = error_of(client.run("export", str(run), "--output", str(run / "none"), "--push_to_hub", "me/other"))
    assert "--push_to_hub me/other: no token; log in by `hf auth login`, or set HF_TOKEN" in error
    assert not (run / "none").exists()


def test_a_push_to_a_hub_that_is_down_is_one_line(hub: HubServer, client: HubClient, run: Path) -> None:
    with hub.down():
        flags = ["--output", str(run / "down"), "--push_to_hub", "me/down"]
        error = error_of(client.run("export", str(run), *flags, token="hf_writes"))
    assert f"the Hub cannot be reached ({hub.endpoint}: ConnectError: " in error


def test_the_hub_is_down(hub: HubServer, client: HubClient) -> None:
    flags = ["--task", "text", "--prompts", "1+1=", "--output", "down"]
    with hub.down():
        assert client.run("data", "openai/gsm8k:main", "--rows", "1").status == 0, "it was downloaded before"
        data, model = client.run("data", "me/later"), client.run("generate", "--model", "me/later", *flags)
    for answer, option in ((data, "--repo-type dataset "), (model, "")):
        error = error_of(answer)
        assert f"the Hub cannot be reached ({hub.endpoint}: ConnectError: " in error
        assert f"(`hf download {option}me/later --local-dir FOLDER`) and give FOLDER in place of the name" in error


def test_without_a_network_what_was_downloaded_is_enough(hub: HubServer, offline: HubClient, folder: Path) -> None:
    before = len(hub.requests)
    assert "What is 0+1?" in offline.run("data", "openai/gsm8k:main", "--rows", "1").out
    error = error_of(offline.run("data", "openai/gsm8k:main", "--split", "dev"))
    assert "Should be one of ['train', 'test']" in error
    flags = ["--task", "text", "--prompts", "1+1=", "--output", "offline"]
    assert offline.run("generate", "--model", "other/mixcot", *flags).status == 0
    for answer in (offline.run("data", "me/absent"), offline.run("generate", "--model", "me/absent", *flags)):
        assert f"HF_HUB_OFFLINE is set, and {folder / 'home'} (HF_HOME) has no whole copy; unset it" in error_of(
            answer
        )
    assert len(hub.requests) == before


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_one_line_and_local_folders_need_none(hub: HubServer, folder: Path) -> None:
    (folder / "file").write_text("")
    copy = folder / "copy" / "data"
    copy.mkdir(parents=True)
    (copy / "train-00000-of-00001.parquet").write_bytes(shapes()["data/train-00000-of-00001.parquet"])
    client = HubClient(hub.endpoint, folder / "file" / "home", folder)
    flags = ["--task", "text", "--prompts", "1+1=", "--output", "none"]
    data, model = client.run("data", "openai/gsm8k:main"), client.run("generate", "--model", "other/mixcot", *flags)
    problem = f"the cache of the Hub cannot be written (Not a directory: {folder / 'file' / 'home'}"
    for answer, advice in (
        (data, "set HF_HOME, or HF_DATASETS_CACHE for data sets alone,"),
        (model, "set HF_HOME to"),
    ):
        error = error_of(answer)
        assert problem in error and f"; free some space, or {advice}" in error
    code = "from rewards.imaging.weights import find_file, model_folder\nmodel_folder('other/clip')"
    for lines in (code, code.replace("\nmodel_folder(", "\nfind_file(").replace("clip'", "clip', ['a.pt']")):
        assert f"the Hub did not give it: {problem}" in client.python(lines).err
    local = client.run("data", "copy", "--rows", "1")
    client.close()
    assert "prompt: Red?" in local.out, local


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_run_asks_the_hub_once_whatever_the_number_of_ranks(hub: HubServer, folder: Path) -> None:
    numbers = []
    for ranks in (1, 2):
        names = [f"other/sums{ranks}", f"other/shapes{ranks}", f"other/model{ranks}"]
        hub.add("datasets", names[0], sums())
        hub.add("datasets", names[1], shapes())
        hub.add("models", names[2], TINY / "mixcot")
        trainer = HubClient(hub.endpoint, folder / f"home_{ranks}", folder)
        trainer.python(
            "import os, ray; head = ray.init(address='local', num_cpus=4, num_gpus=2, include_dashboard=False)\n"
            "os.environ['RAY_ADDRESS'] = head.address_info['gcs_address']"
        )
        before = len(hub.requests)
        answer = trainer.run(
            "train", "--config", str(TINY.parents[1] / "launch" / "configs" / "tiny" / "unigrpo.yaml"),
            "--actor.model_name_or_path", names[2], "--actor.num_gpus_per_node", str(ranks),
            "--data.prompt_dataset", f"[{{path: '{names[0]}:main'}}, {{path: {names[1]}}}]",
            "--data.tasks", "[text, mmu]", "--data.max_prompt_tokens", "64", "--eval.dataset", "",
            "--reward.terms", "[{name: math_answer, num_cpus: 0.2}]", "--run_dir", str(folder / f"run_{ranks}"),
            "--train.num_steps", "1", "--rollout.batch_size", "8", "--rollout.n_samples_per_prompt", "2",
        )  # fmt: skip
        trainer.close()
        assert answer.status == 0, answer
        asked = [request for request in hub.requests[before:] if any(f"{name}/" in request.path for name in names)]
        downloads = [one for one in hub.requests[before:] if one.method == "GET" and one.path.startswith("/lfs/")]
        assert len(downloads) == 5, "two files of weights, and three of the data sets"
        numbers.append(len(asked))
    assert numbers[0] == numbers[1]
