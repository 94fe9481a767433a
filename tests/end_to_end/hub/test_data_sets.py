"""Tests data sets of the Hub: prompts, images, and the sources of pretraining and Mix-CoT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_client import HubClient, error_of
from hub_server import HubServer, Request
from hub_sets import CARD, sums, table
from PIL import Image


def fetched(requests: list[Request]) -> set[str]:
    """Returns the names of the files whose content was requested."""
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


def test_users_with_access_can_read_gated_and_private_data_sets(hub: HubServer, client: HubClient) -> None:
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


def test_an_interrupted_download_is_resumed_and_one_that_always_breaks_is_an_error(
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
    assert asked == 1, "the name is looked up more than once"
