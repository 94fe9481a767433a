"""Tests that the files, commands and settings in the documentation exist."""

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest

from unigrpo.cli.main import COMMANDS
from unigrpo.config import RunConfig
from unigrpo.config.denoising import StageConfig

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/*.md", "examples/*/README.md", "unigrpo/algorithm/README.md", "tests/*/README.md")
    for path in ROOT.glob(pattern)
)
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
"""Pages about this version. The changelog, which also has old names, is not one of them."""
SECTIONS = [field.name for config in (RunConfig, StageConfig) for field in dataclasses.fields(config)]
SETTING = re.compile(rf"(?<![\w./-])(?:--)?((?:{'|'.join(sorted(set(SECTIONS)))})\.[a-z_0-9.]*[a-z_0-9])(?![\w/(*])")


def text_of(page: Path) -> str:
    return (ROOT / page).read_text()


def prose_of(page: Path) -> str:
    """Returns a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def settings(config: Any, prefix: str = "") -> set[str]:
    """Returns the dotted names of all settings of a config class."""
    found: set[str] = set()
    for field in dataclasses.fields(config):
        name = prefix + field.name
        found.add(name)
        hint = get_type_hints(config)[field.name]
        if dataclasses.is_dataclass(hint):
            found |= settings(hint, f"{name}.")
        for inner in filter(dataclasses.is_dataclass, get_args(hint)):
            found |= settings(inner, f"{name}.")
    return found


def config_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("config_reference", ROOT / "docs/scripts/config_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["config_reference"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_of_a_page_leads_to_a_file_and_heading_that_exist(page: Path):
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)", prose_of(page)):
        path = Path(os.path.normpath(page.parent / target)) if target else page
        assert (ROOT / path).exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path), f"{page}: {target}#{anchor}"


@pytest.mark.parametrize("page", CURRENT, ids=str)
def test_every_command_of_a_page_exists(page: Path):
    named = re.findall(r"(?:^|[`>] ?)unigrpo ([a-z][a-z-]+)", text_of(page), flags=re.MULTILINE)
    assert [command for command in named if command not in COMMANDS] == []


@pytest.mark.parametrize("page", CURRENT, ids=str)
def test_every_setting_that_a_page_names_exists(page: Path):
    # `text.` and `image.` are also sections of generate and demo, which have these settings, too.
    known = settings(RunConfig) | settings(StageConfig)
    known |= {name.removeprefix("rollout.") for name in known if name.startswith(("rollout.text.", "rollout.image."))}
    named = {name for name in SETTING.findall(text_of(page)) if not name.endswith((".py", ".md", ".jsonl", ".yaml"))}
    assert sorted(named - known) == []


def test_every_module_that_the_developer_guide_names_exists():
    guide = text_of(Path("AGENTS.md"))
    named = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`", guide)
    assert len(named) > 20
    missing = [name for name in named if not any((ROOT / top / name).exists() for top in ("", "unigrpo"))]
    assert missing == []


def test_a_term_has_the_same_meaning_in_both_glossaries():
    developers, users = (
        dict(re.findall(r"^\| ([^|]+?) \| (.+) \|$", text_of(Path(page)).partition("| term |")[2], re.MULTILINE))
        for page in ("AGENTS.md", "docs/glossary.md")
    )
    both = developers.keys() & users.keys() - {"---"}
    assert len(both) > 15
    assert {term: users[term] for term in both} == {term: developers[term] for term in both}


def test_the_config_reference_has_every_setting_with_its_text():
    reference = config_reference().config_reference()
    rows = {row[0]: row[1] for row in re.findall(r"^\| `([^`]+)` \|.*\| ([^|]*) \|$", reference, flags=re.MULTILINE)}
    sections = set(re.findall(r"^### `([^`]+)`", reference, flags=re.MULTILINE))
    described = {re.sub(r"\.NAME|\[\]", "", name) for name in rows} | {re.sub(r"\.NAME|\[\]", "", s) for s in sections}
    repeated = re.findall(r"^### `([^`]+)`\n\n.*The settings are those of `", reference, flags=re.MULTILINE)
    skipped = tuple(re.sub(r"\.NAME|\[\]", "", name) + "." for name in repeated)
    missing = [
        name
        for name in settings(RunConfig) | settings(StageConfig)
        if name not in described and not name.startswith(skipped)
    ]
    assert missing == []
    assert [name for name, text in rows.items() if not text.strip().endswith((".", ")"))] == []


def test_the_site_builds_without_a_warning(tmp_path: Path):
    missing = [name for name in ("mkdocs", "material", "mkdocstrings") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install -e '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/config_reference/index.html").exists()
