"""Tests that commits, `bash launch/test.sh` and continuous integration run the same linters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent.parent
HOOKS = [
    (repo["repo"], hook)
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repo["hooks"]
]


def test_every_hook_is_a_program_of_the_locked_environment():
    """No hook has its own version of a program or downloads one."""
    programs = {hook["entry"].split()[0] for _, hook in HOOKS}
    assert {"ruff", "codespell", "shellcheck", "hadolint", "pyright"} <= programs
    for repo, hook in HOOKS:
        assert (repo, hook["language"]) == ("local", "system")
        assert (Path(sys.executable).parent / hook["entry"].split()[0]).is_file(), hook["entry"]


def test_the_test_command_runs_all_hooks():
    script = (ROOT / "launch" / "test.sh").read_text()
    assert "SKIP=pyright" in script and "pre-commit run --all-files" in script
    assert 'check "pyright" "$bin/pyright"' in script
    assert "exec bash launch/test.sh" in (ROOT / ".ci" / "run").read_text()


def test_a_misspelled_word_and_a_missing_docstring_are_found(tmp_path):
    tools = Path(sys.executable).parent
    (tmp_path / "module.py").write_text('"""It occ{}."""\n\n\ndef public() -> None:\n    pass\n'.format("ured"))
    spelling = subprocess.run([tools / "codespell", tmp_path / "module.py"], cwd=ROOT, capture_output=True, text=True)
    assert spelling.returncode != 0
    assert "==> occurred" in spelling.stdout
    lint = [tools / "ruff", "check", "--no-cache", "--config", ROOT / "pyproject.toml", tmp_path / "module.py"]
    found = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True)
    assert "D103" in found.stdout
