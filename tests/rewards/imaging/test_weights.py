"""Tests that weight files of reward models are found, read without running code, and checked."""

from __future__ import annotations

import errno
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import Attack
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn

from rewards.imaging import weights

STATE = {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])}


@pytest.mark.parametrize("name", ["./absent", "~/absent", "/absent/folder", "a/b/c", "absent", "owner/absent.pt"])
def test_a_missing_path_is_no_name_on_the_hub(name: str) -> None:
    with pytest.raises(ValueError, match=r"no such file or folder \(/.*\), nor an owner/name of the Hub"):
        weights.local_path(name)


def test_folders_files_and_names_are_distinguished(tmp_path: Path) -> None:
    (tmp_path / "b.pt").write_bytes(b"x")
    assert weights.local_path(str(tmp_path)) == tmp_path
    assert weights.local_path("owner/name") is None
    assert weights.find_file(str(tmp_path), ["a.pt", "b.pt"]) == tmp_path / "b.pt"
    assert weights.find_file(str(tmp_path / "b.pt"), ["a.pt"]) == tmp_path / "b.pt"
    with pytest.raises(ValueError, match=r"has none of the files \['a.pt'\]"):
        weights.find_file(str(tmp_path), ["a.pt"])


def test_the_first_file_that_the_hub_has_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(model: str, name: str) -> str:
        asked.append((model, name))
        if name != "third.bin":
            raise LocalEntryNotFoundError("offline")
        return str(tmp_path / name)

    monkeypatch.setattr(weights, "hf_hub_download", download)
    assert weights.find_file("owner/name", ["first.safetensors", "third.bin", "never"]) == tmp_path / "third.bin"
    assert asked == [("owner/name", "first.safetensors"), ("owner/name", "third.bin")]
    message = r"the Hub gave none of the files \['a', 'b'\]: LocalEntryNotFoundError: offline; download it first"
    with pytest.raises(ValueError, match=message):
        weights.find_file("owner/name", ["a", "b"])


def test_pickled_weights_are_downloaded_only_if_there_are_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        weights, "snapshot_download", lambda model, allow_patterns: asked.append(allow_patterns) or str(tmp_path)
    )
    assert weights.model_folder("owner/name") == tmp_path
    assert asked == [["*.json", "*.txt", "model*.safetensors"], ["pytorch_model*.bin*"]]
    (tmp_path / "model-1.safetensors").touch()
    asked.clear()
    assert weights.model_folder("owner/name") == tmp_path
    assert weights.processor_folder("owner/name") == tmp_path
    assert asked == [["*.json", "*.txt", "model*.safetensors"], ["*.json", "*.txt"]]


def test_a_folder_that_the_hub_does_not_give_is_named_with_the_reason_on_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise OSError("no network\nmany more lines")

    monkeypatch.setattr(weights, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=r"the Hub did not give it: OSError: no network many more lines; download it"):
        weights.processor_folder("owner/name")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the cache of the Hub cannot be written"),
        (errno.ENETUNREACH, "OSError: [Errno 101] Network is unreachable; download it first and give its folder"),
    ],
)
def test_only_errors_of_the_disk_are_those_of_the_cache(
    monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise LocalEntryNotFoundError("no copy") from OSError(number, os.strerror(number))

    monkeypatch.setattr(weights, "snapshot_download", fail)
    with pytest.raises(ValueError, match=re.escape(message)):
        weights.model_folder("owner/model")


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_both_formats_of_pickled_weights_are_read(tmp_path: Path, is_zip: bool, inside: bool) -> None:
    path = tmp_path / "w.pt"
    torch.save({"epoch": 3, "state_dict": STATE} if inside else STATE, path, _use_new_zipfile_serialization=is_zip)
    found = weights.read_weights(path)
    assert {name: value.tolist() for name, value in found.items()} == {"weight": [[1.0, 2.0]], "bias": [3.0]}


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Attack(tmp_path / "attacked"), protocol=2))
    with pytest.raises(ValueError, match=r"w.pt is not a file of weights that can be read safely"):
        weights.read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("content", [{}, {"state_dict": {"a": 1}}, [torch.zeros(1)], {"a": 1.0}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w.pt does not hold a state dict"):
        weights.read_weights(tmp_path / "w.pt")


def test_a_safetensors_file_is_read_and_damaged_values_are_named(tmp_path: Path) -> None:
    save_file({**STATE, "ids": torch.tensor([1])}, tmp_path / "w.safetensors")
    assert weights.read_weights(tmp_path / "w.safetensors")["ids"].tolist() == [1]
    save_file({**STATE, "bias": torch.tensor([float("inf")])}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"the weights 'bias' are not finite"):
        weights.read_weights(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is not a file of weights that can be read safely"):
        weights.read_weights(tmp_path / "w.safetensors")


def test_every_name_and_shape_has_to_fit() -> None:
    layer = nn.Linear(2, 1)
    weights.load_exactly(layer, STATE, "w.pt")
    assert layer(torch.tensor([10.0, 100.0])).tolist() == [213.0]  # 10 * 1 + 100 * 2 + 3
    with pytest.raises(ValueError, match=r"1 missing \['bias'\], 1 that do not belong there \['other'\]"):
        weights.load_exactly(layer, {"weight": STATE["weight"], "other": STATE["bias"]}, "w.pt")
    with pytest.raises(ValueError, match=r"(?s)w.pt: weights of another architecture: .*size mismatch"):
        weights.load_exactly(layer, {**STATE, "bias": torch.zeros(2)}, "w.pt")
