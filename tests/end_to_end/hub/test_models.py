"""Tests models of the Hub: generation, evaluation, the Python interface and the models of rewards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_client import HubClient, error_of
from hub_server import HubServer
from PIL import Image

TINY = Path(__file__).parents[3] / "examples" / "tiny"


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
    assert len(large) == 2, "each of the two files of weights is downloaded once"


def test_a_plan_uses_a_model_whose_weights_were_downloaded(hub: HubServer, client: HubClient) -> None:
    hub.add("models", "other/copy", TINY / "model")
    answer = client.python(
        "from unigrpo.cli.plan import is_local_checkpoint; from unigrpo.models.checkpoint_io import load_config\n"
        "from unigrpo.models.weight_files import local_folder\n"
        "load_config('other/copy'); print(is_local_checkpoint('other/copy'))\n"
        "local_folder('other/copy'); print(is_local_checkpoint('other/copy'), is_local_checkpoint('no/such'))"
    )
    assert answer.out == "False\nTrue False\n", answer


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
