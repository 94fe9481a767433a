"""One golden case: its inputs, its comparisons, and its result."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.vocabulary import Vocabulary


class NotApplicable(Exception):
    """Raised for a trap case whose behaviour the library deliberately does not have. The message says why."""


class Case:
    """A case of a folder in the format of the golden README."""

    def __init__(self, folder: Path, entry: Mapping[str, Any], cases: Mapping[str, Mapping[str, Any]]) -> None:
        self.folder, self.cases = folder, cases
        self.name: str = entry["name"]
        self.params: dict[str, Any] = entry.get("params", {})
        self._entry = entry
        self._largest, self._problems, self._used = 0.0, list[str](), list[str]()
        self._read: set[str] = set()

    @cached_property
    def _arrays(self) -> dict[str, Tensor]:
        return load_file(self.folder / self._entry["file"])

    def __getitem__(self, name: str) -> Tensor:
        self._read.add(name)
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def names(self, pattern: str) -> list[re.Match[str]]:
        """Returns matches of all arrays whose whole name matches, and raises an error if there are none."""
        found = [match for match in map(re.compile(pattern).fullmatch, sorted(self._arrays)) if match]
        if not found:
            raise ValueError(f"no array is named like {pattern}")
        return found

    def other(self, name: str) -> Case:
        """Returns another case of the folder, or the first one whose name starts with this name."""
        found = name if name in self.cases else next(key for key in sorted(self.cases) if key.startswith(name))
        return Case(self.folder, self.cases[found], self.cases)

    def inputs(self) -> Case:
        """Returns the case whose inputs this case uses."""
        return self.other(re.split(r"[\s:,(]", self.params["inputs_from"], maxsplit=1)[0])

    def model(self, attention: str = "eager") -> MMadaModelLM:
        """Returns the toy model. A case without a model config has that of other cases with the same weights."""
        weights = self._entry["weights"]
        others = [c["params"] for c in self.cases.values() if c.get("weights") == weights]
        config = next(p["model_config"] for p in [self.params, *others] if "model_config" in p)
        model = MMadaModelLM(MMadaConfig(**config))
        model.load_state_dict(load_file(self.folder / weights))
        model.config._attn_implementation = attention
        return model.eval()

    # Comparisons with the arrays of the case.

    def exact(self, what: str, found: Any, expected: Tensor) -> None:
        """Compares ids, masks or counts, which must be equal in shape and value."""
        self.close(what, found, expected, atol=0.0, rtol=0.0)

    def close(self, what: str, found: Any, expected: Tensor, *, atol: float, rtol: float = 0.0) -> None:
        """Compares numbers, which must satisfy ``|found - expected| <= atol + rtol |expected|``."""
        found = torch.as_tensor(found).detach()
        bound = "exact" if atol == rtol == 0 else f"atol {atol:g} rtol {rtol:g}"
        if bound not in self._used:
            self._used.append(bound)
        if found.shape != expected.shape:
            self._problems.append(f"{what} has shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
            return
        if found.numel() == 0:
            return
        difference = (found.double() - expected.double()).abs()
        worst = float(difference.nan_to_num(nan=float("inf")).max())
        self._largest = max(self._largest, worst)
        if not torch.allclose(found.double(), expected.double(), rtol=rtol, atol=atol):
            self._problems.append(f"{what} is off by {worst:.3g}, allowed is {bound}")

    def require(self, what: str, holds: bool) -> None:
        """Records a problem if a condition does not hold."""
        if not holds:
            self._problems.append(what)

    def allowed(self, *keys: str, atol: float, rtol: float = 0.0) -> dict[str, float]:
        """Returns the tolerance of the case for one of ``keys`` or for all arrays, and otherwise the given one."""
        stated = self._entry.get("tolerance")
        texts = [stated] if isinstance(stated, str) else []
        if isinstance(stated, dict):
            texts = [str(stated[key]) for key in keys if key in stated]
            texts += [f"{name} {stated[name]}" for name in ("atol", "rtol") if name in stated and not texts]
        found = dict(re.findall(r"\b(atol|rtol)\D*?([\d.]+(?:e-?\d+)?)", " ".join(texts)))
        return (
            {name: float(found.get(name, 0)) for name in ("atol", "rtol")} if found else {"atol": atol, "rtol": rtol}
        )

    def result(self, error: Exception | None = None) -> dict[str, Any]:
        """Returns the output line of the case."""
        problems = [*self._problems]
        if isinstance(error, NotApplicable):
            return self._line("not_applicable" if "trap" in self.name else "fail", str(error))
        if error is not None:
            problems.append(f"{type(error).__name__}: {error}")
        elif not self._used:
            problems.append("nothing was compared")
        if problems:
            return self._line("fail", "; ".join(problems))
        unread = sorted(name for name in self._arrays.keys() - self._read if not name.startswith("in."))
        return self._line("pass", f"not compared: {', '.join(unread)}" if unread else "")

    def _line(self, status: str, why: str) -> dict[str, Any]:
        largest = self._largest if self._used else None
        if largest is not None and not np.isfinite(largest):
            largest = None  # JSON has no infinity, and why names the array
        return {
            "case": self.name,
            "status": status,
            "max_abs_diff": largest,
            "tolerance": ", ".join(self._used),
            "why": why,
        }


def load_cases(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the entries of ``cases.json`` by their names.

    Raises:
        ValueError: The file is missing, or it is not a list of cases.
    """
    try:
        return {case["name"]: case for case in json.loads((folder / "cases.json").read_text())["cases"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: no list of cases in cases.json ({type(error).__name__}: {error})") from error


def recipe_weights(tensors: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Tensor]:
    """Returns weights that depend only on a hash of their name: FNV-1a, then splitmix64 of a counter."""
    weights = {}
    for entry in tensors:
        mask, state = (1 << 64) - 1, 0xCBF29CE484222325
        for byte in entry["name"].encode():
            state = ((state ^ byte) * 0x100000001B3) & mask
        state = (state + seed * 0x9E3779B97F4A7C15) & mask
        with np.errstate(over="ignore"):
            z = np.arange(1, int(np.prod(entry["shape"])) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            z = z + np.uint64(state)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
        unit = (z >> np.uint64(40)).astype(np.float64) * 2.0**-24
        values = (entry["offset"] + entry["scale"] * (2 * unit - 1)).astype(np.float32).reshape(entry["shape"])
        weights[entry["name"]] = torch.from_numpy(values)
    return weights


def vocabulary(**ids: int | None) -> Vocabulary:
    """Returns a vocabulary with the ids that a case needs; the others are -1."""
    unread: dict[str, Any] = {
        f"{name}_id": -1
        for name in ("mask", "begin_of_text", "end_of_text", "image_pad", "soi", "eoi", "t2i", "mmu", "r2i")
    }
    return Vocabulary(**{**unread, "end_header_id": None, "image_offset": 0, "codebook_size": 0, **ids})
