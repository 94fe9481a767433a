"""Weight files of reward models: finding them, reading them without running code, and checking them."""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

NOT_WRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOLCK,
)  # fmt: skip
"""Errors of a cache that is full or cannot be written. Those of sockets and of TLS have numbers, too."""
TEXT_FILES = ("*.json", "*.txt")
"""Files of a config, a tokenizer and a processor."""


def local_path(model: str) -> Path | None:
    """Returns the folder or file that an option names; None if it names a model of the Hub.

    Raises:
        ValueError: It looks like a path, and nothing is there.
    """
    path = Path(model).expanduser()
    if path.exists():
        return path
    looks_like_path = path.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1
    if looks_like_path or path.suffix in {".pt", ".pth", ".safetensors"}:
        raise ValueError(f"model {model!r}: no such file or folder ({path.absolute()}), nor an owner/name of the Hub")
    return None


def find_file(model: str, names: Collection[str]) -> Path:
    """Returns the first of the files that the folder or the Hub's repository ``model`` has; or ``model``, if it is a
    file.

    Raises:
        ValueError: None of them is there; the message says where it looked.
    """
    path = local_path(model)
    if path is not None:
        found = [path] if path.is_file() else [path / name for name in names if (path / name).is_file()]
        if not found:
            raise ValueError(f"model {model!r}: the folder has none of the files {list(names)}")
        return found[0]
    reason = ""
    for name in names:
        try:
            return Path(hf_hub_download(model, name))
        except EntryNotFoundError as error:
            reason = _reason(error)
        except Exception as error:  # the Hub's client and those below it each raise their own kinds
            raise ValueError(
                f"model {model!r} is no folder here, and the Hub did not give it: {_reason(error)}"
            ) from error
    raise ValueError(f"model {model!r} is no folder here, and the Hub gave none of the files {list(names)}: {reason}")


def model_folder(model: str) -> Path:
    """Returns the folder of a model of transformers with its tokenizer and processor; one of the Hub is downloaded.

    Pickled weights are downloaded only if there are no others.

    Raises:
        ValueError: There is neither such a folder nor such a name on the Hub.
    """
    folder = _downloaded(model, [*TEXT_FILES, "model*.safetensors"])
    return folder if any(folder.glob("model*.safetensors")) else _downloaded(model, ["pytorch_model*.bin*"])


def processor_folder(model: str) -> Path:
    """Returns the folder of a config, tokenizer and processor without weights; arguments and errors are those of
    :func:`model_folder`."""
    return _downloaded(model, TEXT_FILES)


def _downloaded(model: str, patterns: Sequence[str]) -> Path:
    path = local_path(model)
    if path is not None:
        return path
    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns)))
    except Exception as error:  # the Hub's client and those below it each raise their own kinds
        raise ValueError(
            f"model {model!r} is no folder here, and the Hub did not give it: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """Returns the reason why a download failed, and what to do, on one line."""
    full = next((e for e in (error, error.__cause__) if isinstance(e, OSError) and e.errno in NOT_WRITABLE), None)
    if full is not None:
        return (
            f"the cache of the Hub cannot be written ({full.strerror}: {full.filename or constants.HF_HOME}); free "
            "some space, or set HF_HOME to a folder that can be written"
        )
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, GatedRepoError):
        return "it is gated; accept its terms on its page, and log in (`hf auth login`, or HF_TOKEN)"
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return "there is none, it is private, or your token is wrong; look at the name, and log in (`hf auth login`)"
    if isinstance(error.__cause__, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and the cache (HF_HOME) has no copy; unset it, or give a folder"
    text = " ".join(str(error.__cause__ or error).split())
    return f"{type(error.__cause__ or error).__name__}: {text}; download it first and give its folder"


def read_weights(path: Path) -> dict[str, Shaped[Tensor, "*_"]]:
    """Returns the tensors of a ``.safetensors`` file or of a pickled state dict, by name. A pickled checkpoint may
    hold its state dict as ``state_dict``.

    A pickle is read with ``weights_only``, so that it cannot run code, and mapped, so that it is in memory once; the
    format from before torch 1.6 cannot be mapped.

    Raises:
        ValueError: The file has another format, holds anything but tensors with names, or values that are not finite.
    """
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{path} is not a file of weights that can be read safely: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), Mapping):  # a checkpoint of a training
        state = dict(state["state_dict"])
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} does not hold a state dict: expected names with tensors")
    require_finite(state, str(path))
    return state


def require_finite(state: Mapping[str, Shaped[Tensor, "*_"]], source: str) -> None:
    """Checks every weight.

    Raises:
        ValueError: A weight is NaN or infinite; the message names its tensor.
    """
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{source}: the weights {name!r} are not finite (NaN or infinite); the file is damaged")


def load_exactly(
    module: nn.Module, state: Mapping[str, Shaped[Tensor, "*_"]], source: str, *, assign: bool = False
) -> None:
    """Copies weights into a module, or assigns them; every name and every shape has to fit.

    Raises:
        ValueError: Names are missing or left over, or shapes differ: another architecture.
    """
    try:
        missing, unexpected = module.load_state_dict(dict(state), strict=False, assign=assign)
    except RuntimeError as error:  # shapes
        raise ValueError(f"{source}: weights of another architecture: {error}") from error
    if missing or unexpected:
        raise ValueError(
            f"{source}: weights of another architecture: {len(missing)} missing {list(missing)[:3]}, "
            f"{len(unexpected)} that do not belong there {list(unexpected)[:3]}"
        )
