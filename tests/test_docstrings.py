"""Tests that examples in docstrings print the documented output."""

from __future__ import annotations

import doctest
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    file.relative_to(ROOT)
    for folder in ("unigrpo", "rewards", "examples")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if ">>> " in file.read_text()
]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_examples_of_a_module_print_the_documented_output(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # some examples name files of the repository
    if file.parts[0] == "examples":
        monkeypatch.syspath_prepend(str(ROOT / file.parent))  # these scripts import their neighbours
        name = file.stem
    else:
        name = ".".join(file.with_suffix("").parts)
    try:
        module = sys.modules.get(name) or importlib.import_module(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}, which an extra of pyproject.toml installs")
    failed, attempted = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert attempted > 0
    assert failed == 0
