"""The only monkeypatches: what OpenRLHF and DeepSpeed need to be importable and usable without a GPU."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any, NoReturn

import torch

PLACEHOLDERS: dict[str, tuple[str, ...]] = {
    "flash_attn": (),
    "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
    "flash_attn.utils": (),
    "flash_attn.utils.distributed": ("all_gather",),
    "vllm": ("AsyncEngineArgs", "AsyncLLMEngine", "LLM", "SamplingParams"),
    "vllm.inputs": ("TokensPrompt",),
    "vllm.utils": ("random_uuid",),
}
"""Modules that OpenRLHF imports on loading, and the names it takes from them. UniGRPO uses none of them."""


def install() -> None:
    """Puts placeholders where ``flash_attn`` and ``vllm`` are not installed; may be called any number of times.

    Where there is no GPU, DeepSpeed is told so, which otherwise warns in every process.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    missing = {root for root in ("flash_attn", "vllm") if importlib.util.find_spec(root) is None}
    for name, attributes in PLACEHOLDERS.items():
        if name.split(".")[0] in missing:
            sys.modules[name] = _placeholder(name, attributes)
    for name in PLACEHOLDERS:
        parent, _, child = name.rpartition(".")
        if parent and name.split(".")[0] in missing:
            setattr(sys.modules[parent], child, sys.modules[name])


def _placeholder(name: str, attributes: tuple[str, ...]) -> ModuleType:
    module = ModuleType(name, f"Stands in for {name}, which is not installed; raises when used.")
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
    module.__path__ = []
    for attribute in attributes:
        setattr(module, attribute, _missing(f"{name}.{attribute}"))
    return module


def _missing(path: str) -> Any:
    """A class, because OpenRLHF names some of these in annotations."""

    def refuse(*_: object, **__: object) -> NoReturn:
        root = path.split(".")[0].replace("_", "-")
        raise ImportError(f"{path} was used, but {root} is not installed; see requirements.txt")

    return type(path.rpartition(".")[2], (), {"__new__": refuse})


def skip_shared_memory_build() -> None:
    """Keeps DeepSpeed from compiling its shared-memory collectives, about a minute on a CPU; gloo does their work.

    DeepSpeed compiles an operator only if its table of compatible ones says so.
    """
    from deepspeed import ops  # noqa: PLC0415  # seconds to import, and only processes that train need it

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def use_cpu_barrier() -> None:
    """Gives OpenRLHF's checkpoint code a barrier that does not synchronise CUDA."""
    from openrlhf.utils.deepspeed import deepspeed  # noqa: PLC0415  # imports what install() stands in for

    deepspeed.torch_dist_barrier_and_cuda_sync = torch.distributed.barrier
