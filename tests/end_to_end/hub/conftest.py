"""A small Hub with data sets and models, and a process that reads from it, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import HubClient
from hub_server import HubServer
from hub_sets import shapes, sums

TINY = Path(__file__).parents[3] / "examples" / "tiny"
QUICK = "import time, torch, transformers, datasets, unigrpo.cli.main; time.sleep = lambda seconds: None"
"""Code that imports modules and removes the pauses between retries of the client libraries."""


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="package")
def client(hub: HubServer, folder: Path) -> Iterator[HubClient]:
    started = HubClient(hub.endpoint, folder / "home", folder)
    started.python(QUICK)
    yield started
    started.close()
