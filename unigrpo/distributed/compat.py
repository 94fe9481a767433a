"""All monkeypatches. They make OpenRLHF and DeepSpeed usable without a GPU, and fix an error of DeepSpeed."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterable
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import torch

NEED_THIS = ("openrlhf", "deepspeed")
"""Packages before whose import :func:`install` must have been called."""
PLACEHOLDERS: dict[str, tuple[str, ...]] = {
    "flash_attn": ("flash_attn_func", "flash_attn_varlen_func"),
    "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
    "flash_attn.utils": (),
    "flash_attn.utils.distributed": ("all_gather",),
    "vllm": ("AsyncEngineArgs", "AsyncLLMEngine", "LLM", "SamplingParams"),
    "vllm.inputs": ("TokensPrompt",),
    "vllm.utils": ("random_uuid",),
}
"""Modules that OpenRLHF imports when it is loaded, and the names it takes from them. UniGRPO uses none of them."""
OLD_COLLECTIVES = r"`torch\.distributed\.(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated"
"""Start of torch's warning about collectives that DeepSpeed calls by their old names."""


class _Installer(MetaPathFinder):
    """Calls :func:`install` when the first of :data:`NEED_THIS` is looked for, and finds nothing itself."""

    def find_spec(self, name: str, path: Iterable[str] | None, target: ModuleType | None = None) -> None:
        if name in NEED_THIS and self in sys.meta_path:
            sys.meta_path.remove(self)
            install()


def install_when_needed() -> None:
    """Lets :func:`install` be called when one of :data:`NEED_THIS` is imported.

    The processes of rewards import none of these packages and need no torch.
    """
    sys.meta_path.insert(0, _Installer())


def install() -> None:
    """Installs placeholders for ``flash_attn`` and ``vllm`` if they are missing; may be called any number of times.

    Where there is no GPU, it also tells DeepSpeed so, which would otherwise warn in every process. It ignores the
    warnings of torch about collectives that DeepSpeed calls by their old names, which only DeepSpeed can change.
    """
    import torch  # noqa: PLC0415  # seconds to import, which the processes of rewards do not need

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings(
        "ignore", OLD_COLLECTIVES, category=FutureWarning, module=r"torch\.distributed\.c10d_logger|deepspeed\."
    )
    for root, reason in (("vllm", "UniGRPO does not use it"), ("flash_attn", _reason_not_importable("flash_attn"))):
        if reason and root not in sys.modules:
            _put_placeholders(root, reason)


def _reason_not_importable(root: str) -> str:
    """The reason why a package cannot be imported; empty if it can."""
    try:
        importlib.import_module(root)
    except ModuleNotFoundError as error:
        return "it is not installed" if error.name == root else f"its import failed: {error}"
    except Exception as error:
        return f"its import failed: {error}"
    return ""


def _put_placeholders(root: str, reason: str) -> None:
    names = [name for name in PLACEHOLDERS if name.split(".")[0] == root]
    for name in names:
        sys.modules[name] = _placeholder(name, PLACEHOLDERS[name], reason)
    for name in names:
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])


def _placeholder(name: str, attributes: tuple[str, ...], reason: str) -> ModuleType:
    module = ModuleType(name, f"Stands in for {name}, and raises when it is used: {reason}.")
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
    module.__path__ = []
    for attribute in attributes:
        setattr(module, attribute, _missing(f"{name}.{attribute}", reason))
    return module


def _missing(path: str, reason: str) -> Any:
    """Returns a class, because OpenRLHF names some of these in annotations."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise ImportError(f"{path} was used, but {path.split('.')[0]} is a placeholder here: {reason}")

    return type(path.rpartition(".")[2], (), {"__new__": refuse})


def skip_shared_memory_build() -> None:
    """Keeps DeepSpeed from compiling its shared-memory collectives, which takes about a minute on a CPU; gloo replaces
    them.

    DeepSpeed compiles an operator only if its table of compatible operators contains it.
    """
    from deepspeed import ops  # noqa: PLC0415  # seconds to import, and only processes that train need it

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def use_cpu_barrier() -> None:
    """Gives OpenRLHF's checkpoint code a barrier that does not synchronize CUDA."""
    import torch  # noqa: PLC0415
    from openrlhf.utils.deepspeed import deepspeed  # noqa: PLC0415  # imports what install() stands in for

    deepspeed.torch_dist_barrier_and_cuda_sync = torch.distributed.barrier


def add_gradients_in_their_type(optimizer: Any) -> None:
    """Makes DeepSpeed's ZeRO-2 optimizer add up gradients in the type of its ``gradient_accumulation_dtype``.

    By itself it starts the sum with the gradient of the first pass as it is, in the type of the weights, and therefore
    adds up in this type.
    """
    if not hasattr(optimizer, "get_all_grad_tensors"):
        return  # ZeRO-3 adds up as it is told
    own = optimizer.get_all_grad_tensors

    def converted(tensors: list[torch.Tensor], dtype: torch.dtype) -> Iterable[torch.Tensor]:
        # The first ones become the sum. To those after them it is added one by one, so one at a time is enough.
        group = next(i for i, params in enumerate(optimizer.params_in_partition) if params is tensors)
        gradients = (gradient.to(dtype) for gradient in own(tensors, dtype))
        return list(gradients) if optimizer.all_grad_tensors.get(group) is None else gradients

    optimizer.get_all_grad_tensors = converted
