"""Tests that the versions of the package, the changelog and the citation are equal."""

import re
from pathlib import Path

import yaml

from unigrpo import __version__

ROOT = Path(__file__).parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_newest_release_of_the_changelog_is_that_of_package_and_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    headings = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert headings[:2] == ["Unreleased", f"{__version__} ({citation['date-released']})"]
    assert citation["version"] == __version__


def test_no_change_is_listed_twice():
    changes = re.findall(r"^- .+$", CHANGELOG, re.MULTILINE)
    assert sorted(changes) == sorted(set(changes))
