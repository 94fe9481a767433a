"""Tests pushing policies to the Hub."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hub_client import HubClient, error_of
from hub_server import HubServer
from saved_run import save_run

from unigrpo.models.checkpoint_io import load_policy

TINY = Path(__file__).parents[3] / "examples" / "tiny"


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """Returns a run of the tiny text model with checkpoints."""
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
