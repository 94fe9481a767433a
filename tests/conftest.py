"""Shared fixtures, such as the golden cases, and checks of types and shapes.

The types and shapes of the records and the algorithm are checked in the first calls of every test, and those of all of
UniGRPO with ``--typecheck``.
"""

from __future__ import annotations

import gc
import os
import sys

gc.disable()  # until the tests are collected, because imported modules stay in memory

from jaxtyping import install_import_hook

if "--typecheck" in sys.argv:
    os.environ["UNIGRPO_TYPECHECK"] = "1"  # inherited by the processes of pytest-xdist
CHECKED = ("unigrpo.algorithm", "unigrpo.records", "unigrpo.rng", "unigrpo.plugins")
# The hook must be installed before the modules that it checks are imported.
install_import_hook(["unigrpo"] if os.environ.get("UNIGRPO_TYPECHECK") else list(CHECKED), "typecheck.checked")
# Ray's processes run at the priority of the tests. With Ray's niceness of 15, two tests that compute take all CPU
# time.
os.environ.setdefault("RAY_worker_niceness", "0")

import functools
import json
import logging
import shutil
import string
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docstring_parser
import jaxtyping
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from typecheck import LimitedChecks
from xdist.scheduler.loadfile import LoadFileScheduling

from unigrpo.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM

# Without the cache, the parser of each command parses the docstrings of all settings, which takes a third of its time.
docstring_parser.parse_from_object = functools.cache(docstring_parser.parse_from_object)

CHECKED_CALLS = 200
"""Number of calls of functions and dataclasses that each test checks; with ``--typecheck`` all calls are checked."""
if not os.environ.get("UNIGRPO_TYPECHECK") and not jaxtyping.config.jaxtyping_disable:
    jaxtyping.config.__class__ = LimitedChecks

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
SPECIAL_TOKENS = {
    "begin_of_text": "<|startoftext|>",
    "end_of_text": "<|endoftext|>",
    "mask": "<|mdm_mask|>",
    "soi": "<|soi|>",
    "eoi": "<|eoi|>",
    "t2i": "<|t2i|>",
    "mmu": "<|mmu|>",
    "r2i": "<|r2i|>",
    "image_pad": "[iPAD]",
    "start_header": "<|start_header_id|>",
    "end_header": "<|end_header_id|>",
    "end_of_turn": "<|eot_id|>",
}
CHAT_TEMPLATE = (
    "{{ '<|startoftext|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n' "
    "+ m['content'] + '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n' }}"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--typecheck``, which is read at the top of this file."""
    parser.addoption("--typecheck", action="store_true", help="check types and shapes in all of unigrpo")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Writes the images of the tiny prompts once, before the processes of pytest-xdist start."""
    if not hasattr(session.config, "workerinput"):
        script = Path(__file__).parents[1] / "examples" / "tiny" / "prompt_images.py"
        subprocess.run([sys.executable, str(script)], check=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs files that start Ray first and whole trainings in one process next, so that a parallel run ends with short
    files.

    Skips tests that cannot run with ``--typecheck``.
    """
    for item in items:
        if os.environ.get("UNIGRPO_TYPECHECK") and item.get_closest_marker("wrong_types"):
            item.add_marker(pytest.mark.skip(reason="passes values that contradict the type hints"))
    starts_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: (item.path not in starts_ray, item.path.parent.name != "trainers"))


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from checking what was imported, and lets it run less often.

    At its usual threshold it takes a tenth of the time of tests that make many small objects.
    """
    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Allows checks of types and shapes in the fixtures of a test; ``pytest_runtest_call`` allows them in the test."""
    LimitedChecks.left = CHECKED_CALLS
    logging.getLogger().setLevel(logging.WARNING)  # a command in this process may have set it to INFO


def pytest_runtest_call() -> None:
    LimitedChecks.left = CHECKED_CALLS


class Scheduling(LoadFileScheduling):
    """Gives one file at a time to each process of pytest-xdist.

    All files of a folder that start Ray run in one process, which starts the cluster of that folder once. The files of
    the folder that starts a Hub also run in one process.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        folder, _, name = file.rpartition("/")
        return folder if name.startswith("test_ray_") or folder.endswith("/hub") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def save_tiny_tokenizer(folder: Path) -> None:
    """Saves a tokenizer with the special tokens and one token for each printable ASCII character."""
    names = [*SPECIAL_TOKENS.values(), *string.printable]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        mask_token="<|mdm_mask|>",
        additional_special_tokens=list(SPECIAL_TOKENS.values())[3:],
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a checkpoint folder with a small random model and a character tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_model")
    save_tiny_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL_TOKENS.items()}
    config = MMadaConfig(
        d_model=16,
        n_layers=2,
        n_heads=2,
        mlp_hidden_size=32,
        vocab_size=len(tokenizer),
        init_std=0.2,
        mask_token_id=ids["mask"],
        special_token_ids=ids,
    )
    torch.manual_seed(0)
    MMadaModelLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_unified_folder(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a checkpoint with random weights that reads and generates images of 4x4 codes, with its image
    tokenizer."""
    folder = tmp_path_factory.mktemp("multimodal") / "model"
    shutil.copytree(tiny_model_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    torch.manual_seed(0)
    config = MMadaConfig(
        d_model=16,
        n_layers=2,
        n_heads=2,
        mlp_hidden_size=32,
        vocab_size=len(tokenizer) + 32,
        init_std=0.4,
        mask_token_id=values["mask_token_id"],
        special_token_ids=values["special_token_ids"],
        codebook_size=32,
    )
    MMadaModelLM(config).save_pretrained(folder)
    sizes = {"encoder_channels": [32] * 3, "decoder_channels": [32] * 3}
    blocks = {"encoder_blocks": [1] * 3, "decoder_blocks": [1] * 3}
    ImageTokenizer(ImageTokenizerConfig(num_bits=5, stem_channels=32, **sizes, **blocks)).save_pretrained(
        folder / "image_tokenizer"
    )
    return folder


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Returns the folder of the golden cases."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden() -> Callable[[str], tuple[dict[str, Any], dict[str, Tensor]]]:
    """Returns a function that returns the parameters and the arrays of a golden case by its name."""
    cases = {case["name"]: case for case in json.loads((GOLDEN / "cases.json").read_text())["cases"]}

    def load(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return cases[name]["params"], load_file(GOLDEN / cases[name]["file"])

    return load
