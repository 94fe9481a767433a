"""Adds pages from elsewhere in the repository, linked files and generated references to the documentation site.

MkDocs calls the functions ``on_*``. Pages have relative links, which work on a code host; here they are changed to the
places of the files in the site.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, os.path.dirname(__file__))
from config_reference import config_reference  # a file of this folder, which is not a package

ROOT = Path(__file__).resolve().parents[2]
INCLUDED = {
    "paper_index.md": "unigrpo/algorithm/README.md",
    "custom_reward_example.md": "examples/custom_reward/README.md",
    "code_sandbox_example.md": "examples/code_sandbox/README.md",
    "library_examples.md": "examples/library/README.md",
    "tiny_example.md": "examples/tiny/README.md",
    "benchmarks.md": "tests/benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "developer_guide.md": "AGENTS.md",
}
"""Pages of the site, and the files of the repository that they show."""
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
"""A relative link: its opening, its path, and its anchor with the closing bracket."""
API_PACKAGES = ("unigrpo", "rewards")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the pages of the API reference in the navigation."""
    assert config.nav is not None
    config.nav.append({"API": [name for name, _ in _api_pages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are written elsewhere, the generated pages, and every other file that a page links to."""
    for name, source in INCLUDED.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    files.append(File.generated(config, "config_reference.md", content=config_reference()))
    for name, content in _api_pages():
        files.append(File.generated(config, name, content=content))
    for file in list(files.documentation_pages()):
        for target in _targets(file.content_string, file.src_uri):
            copy = f"source/{target}"
            is_page = target.startswith("docs/") or target in INCLUDED.values()
            if not is_page and (ROOT / target).is_file() and files.get_file_from_path(copy) is None:
                files.append(File.generated(config, copy, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Changes links that leave ``docs/`` to the pages and files of the site."""
    source = page.file.src_uri
    return LINK.sub(lambda found: found[1] + _site_link(found[2], source) + found[3], markdown)


def _repository_path(target: str, page: str) -> str:
    """Returns the path in the repository that a link of a page of the site means."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(INCLUDED.get(page, f"docs/{page}")), target))


def _targets(markdown: str, page: str) -> Iterator[str]:
    return (_repository_path(found[2], page) for found in LINK.finditer(markdown))


def _site_link(target: str, page: str) -> str:
    path = _repository_path(target, page)
    by_source = {source: name for name, source in INCLUDED.items()}
    if path in by_source:
        place = by_source[path]
    elif path.startswith("docs/"):
        place = path.removeprefix("docs/")
    elif (ROOT / path).is_file():
        place = f"source/{path}"
    else:
        return target  # MkDocs reports it
    return posixpath.relpath(place, posixpath.dirname(page) or ".")


def _api_pages() -> Iterator[tuple[str, str]]:
    """Yields a page for each package: its modules, documented from their docstrings."""
    for top in API_PACKAGES:
        for folder in sorted({path.parent for path in (ROOT / top).rglob("*.py")}):
            package = ".".join(folder.relative_to(ROOT).parts)
            modules = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
            entries = "".join(f"\n::: {package}.{module}\n" for module in modules)
            yield f"api/{package}.md", f"# {package}\n\n::: {package}\n    options:\n      members: []\n{entries}"
