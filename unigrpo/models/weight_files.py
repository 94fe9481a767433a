"""The files of a checkpoint, in a folder or on the Hub. Errors name the missing or broken file."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unigrpo import CheckpointError
from unigrpo.models.hub_errors import download_problem

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
TEXT_PATTERNS = ("*.json", "*.jinja", "*.txt", "*.model")
"""Patterns of the files of configs and tokenizers."""
PATTERNS = (*TEXT_PATTERNS, "*.safetensors")
"""Patterns of the files that are downloaded: neither pickled weights nor code."""
INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
SINGLE_FILES = (SINGLE_FILE, "pytorch_model.safetensors")
"""Names of a single weight file; the second is that of the published image tokenizer."""
MAX_SHOWN = 3


def local_folder(name: str | Path, patterns: Sequence[str] = PATTERNS) -> Path:
    """Returns the folder of a checkpoint. A Hub name is downloaded, or found in the cache.

    Args:
        name: Folder or Hub name.
        patterns: Files to download.

    Raises:
        ValueError: There is neither such a folder nor such a name on the Hub, or the Hub cannot be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    if not HUB_NAME.fullmatch(str(name)):
        raise CheckpointError(
            f"{name}: there is no such folder; give the folder of a checkpoint, or a name on the Hub. Folders and the "
            "cache of the Hub (HF_HOME) must lie on a file system that all nodes see"
        )
    try:
        return Path(snapshot_download(str(name), allow_patterns=list(patterns)))
    except Exception as error:  # the Hub's client and those below it each raise their own kinds
        raise CheckpointError(
            f"{name}: there is no such folder, and the Hub has no such download: {download_problem(error, str(name))}"
        ) from error


def is_downloaded(name: str) -> bool:
    """Whether the weights of a Hub name are in the cache (``HF_HOME``)."""
    if not HUB_NAME.fullmatch(name):
        return False
    config = try_to_load_from_cache(name, "config.json")
    return isinstance(config, str) and any(Path(config).parent.glob("*.safetensors"))


def give_modes_of_config(folder: str | Path) -> None:
    """Gives weight files the same permissions as the ``config.json`` next to them, which follow the umask.

    The safetensors library creates files that only their owner can read, whatever the umask is.
    """
    mode = (Path(folder) / "config.json").stat().st_mode
    for path in Path(folder).glob("*.safetensors"):
        path.chmod(mode)


def weight_files(folder: Path, single_files: Sequence[str] = SINGLE_FILES) -> list[Path]:
    """Returns the safetensors files of the weights: a single file, or those that the index names.

    The function checks that all files can be opened.

    Args:
        folder: The checkpoint.
        single_files: Names that a single file may have.

    Raises:
        ValueError: There are no weights; a file is missing or truncated; or there are both a single file and an index.
    """
    single = [folder / name for name in single_files if (folder / name).is_file()][:1]
    if single and (folder / INDEX).is_file() and single != _indexed_files(folder):
        raise CheckpointError(
            f"{folder}: {single[0].name} and {INDEX} are both there, and may hold different weights; remove the one "
            "that does not belong to this checkpoint"
        )
    files = single or _indexed_files(folder)
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, one of {len(files)} files of weights; download it again")
        try:
            with safe_open(file, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{file} cannot be read ({first_line(error)}); it may have been cut short, download it again"
            ) from error
    return files


def _indexed_files(folder: Path) -> list[Path]:
    try:
        index = json.loads((folder / INDEX).read_text())
        names = sorted(set(index["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise CheckpointError(f"names {reprlib.repr(outside[0])}, which is not in this folder")
        return [folder / name for name in names]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder}: there are no weights; expected {INDEX} or {SINGLE_FILES[0]}. Weights in other formats are not "
            "read: convert them to safetensors"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{folder / INDEX}: not an index of weights ({first_line(error)}); download it again"
        ) from error


def read_tensors(folder: Path) -> dict[str, Shaped[Tensor, "*_"]]:
    """Returns all tensors of a checkpoint, on the CPU, in their stored types.

    Raises:
        ValueError: As :func:`weight_files`.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        with safe_open(file, "pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    return tensors


def check_shapes(folder: str | Path, files: Sequence[Path], expected: Mapping[str, torch.Size]) -> None:
    """Compares the headers of weight files with the model of the config, before the model is allocated.

    Args:
        folder: Folder of the checkpoint, for error messages.
        files: Its weight files.
        expected: Shape of each tensor of the model, by name.

    Raises:
        ValueError: A tensor of the model is missing, or has another shape.
    """
    found: dict[str, list[int]] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118  # no mapping
    check_names(folder, expected.keys() - found.keys(), set())
    other = [name for name, shape in expected.items() if list(shape) != found[name]]
    if other:
        first = sorted(other)[0]
        raise CheckpointError(
            f"{folder}: {len(other)} tensors have another shape than config.json gives them, such as {first}: "
            f"{found[first]}, expected {list(expected[first])}; the file and the config are of different models"
        )


def check_finite(folder: str | Path, tensors: Mapping[str, Shaped[Tensor, "*_"]]) -> None:
    """Checks that all weights are finite.

    Raises:
        ValueError: A tensor contains NaN or infinity.
    """
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{folder}: {len(broken)} tensors hold NaN or infinity: {summarise_names(broken)}; use an earlier "
            "checkpoint"
        )


def check_names(folder: str | Path, missing: list[str] | set[str], unknown: list[str] | set[str]) -> None:
    """Checks that the weights are exactly those of the model.

    Raises:
        ValueError: A tensor is missing or unknown.
    """
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            raise CheckpointError(
                f"{folder}: {len(names)} tensors are {problem}: {summarise_names(names)}; download the checkpoint "
                "again, or use "
                "one of the published architecture"
            )


def summarise_names(names: list[str] | set[str]) -> str:
    """Returns the first few names and the number of the others."""
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(sorted(names)[:MAX_SHOWN]) + more


def first_line(error: BaseException) -> str:
    """Returns the type of an error and at most 300 characters of the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:300]}"
