"""Tests commands when the Hub is down, there is no network, or the cache cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import HubClient, error_of
from hub_server import HubServer
from hub_sets import shapes


@pytest.fixture(scope="module")
def downloaded(client: HubClient) -> None:
    """Downloads a data set and a model into the cache before the network is gone."""
    flags = ["--task", "text", "--prompts", "1+1=", "--output", "online"]
    for command in (["data", "openai/gsm8k:main", "--rows", "1"], ["generate", "--model", "other/mixcot", *flags]):
        answer = client.run(*command)
        assert answer.status == 0, answer


@pytest.fixture
def offline(client: HubClient) -> Iterator[HubClient]:
    """Sets the process as if it had started with ``HF_HUB_OFFLINE=1``, which the libraries read at their import."""
    code = (
        "import datasets, huggingface_hub; datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE"
    )
    client.python(f"{code} = True")
    yield client
    client.python(f"{code} = False")


@pytest.mark.usefixtures("downloaded")
def test_without_the_hub_downloaded_files_are_used_and_others_are_errors(hub: HubServer, client: HubClient) -> None:
    flags = ["--task", "text", "--prompts", "1+1=", "--output", "down"]
    with hub.down():
        assert client.run("data", "openai/gsm8k:main", "--rows", "1").status == 0, "it was downloaded before"
        data, model = client.run("data", "me/later"), client.run("generate", "--model", "me/later", *flags)
    for answer, option in ((data, "--repo-type dataset "), (model, "")):
        error = error_of(answer)
        assert f"the Hub cannot be reached ({hub.endpoint}: ConnectError: " in error
        assert f"(`hf download {option}me/later --local-dir FOLDER`) and give FOLDER in place of the name" in error


@pytest.mark.usefixtures("downloaded")
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
