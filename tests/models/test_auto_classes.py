"""Tests that transformers finds our model types, whether it was imported before or after ``import unigrpo``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from unigrpo.models import auto_classes


def test_auto_classes_that_are_loaded_already_find_our_models(monkeypatch: pytest.MonkeyPatch) -> None:
    table = sys.modules[auto_classes.TABLE].CONFIG_MAPPING
    monkeypatch.setattr(table, "_extra_content", {"other": object})
    auto_classes.register_when_looked_up()
    assert isinstance(table._extra_content, auto_classes._Registered)
    assert {"other", "magvitv2"} & set(table._extra_content) == {"other"}  # our types are added by the look-up
    monkeypatch.setitem(auto_classes.OURS, "looked up", "json.tool")
    sys.modules.pop("json.tool", None)
    assert "looked up" not in table
    assert "json.tool" in sys.modules


def test_a_table_that_is_made_later_gets_our_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of this test replaces that of transformers, which is already imported in every test."""
    code = "class Mapping:\n    _extra_content = {'other': 1}\n\nCONFIG_MAPPING = Mapping()\n"
    (tmp_path / "table_of_a_test.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(auto_classes, "TABLE", "table_of_a_test")
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if type(f) is not auto_classes._TableFinder])
    number = len(sys.meta_path)
    for _ in range(2):
        auto_classes.register_when_looked_up()
    assert len(sys.meta_path) == number + 1, "repeated calls add only one finder"
    try:
        table = importlib.import_module("table_of_a_test").CONFIG_MAPPING._extra_content
        assert importlib.import_module("colorsys").__name__ == "colorsys", "other modules are still found"
    finally:
        sys.modules.pop("table_of_a_test", None)
    assert isinstance(table, auto_classes._Registered)
    assert table == {"other": 1}
    monkeypatch.setitem(auto_classes.OURS, "looked up", "json.tool")
    sys.modules.pop("json.tool", None)
    assert "looked up" not in table
    assert "json.tool" in sys.modules, "a look-up imports the module that registers the type"


def test_without_transformers_the_import_error_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_classes, "TABLE", "absent_table")
    monkeypatch.setattr(sys, "meta_path", [auto_classes._TableFinder(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="absent_table"):
        importlib.import_module("absent_table")
