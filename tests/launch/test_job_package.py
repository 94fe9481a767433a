"""What travels to the cluster as the working directory of a job: every module of the library, and no environment."""

import json
import re
from pathlib import Path

import pytest
from ray._private.thirdparty.pathspec.pathspec import PathSpec

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.relative_to(ROOT) for top in ("unigrpo", "rewards") for path in (ROOT / top).rglob("*.py"))


def patterns(source: str) -> list[str]:
    """The patterns by which Ray leaves files out: the project's .gitignore, and the ``excludes`` of the launcher."""
    if source == ".gitignore":
        return (ROOT / source).read_text().splitlines()
    found = re.search(r'"excludes": (\[.*?\])', (ROOT / source).read_text())
    assert found
    return json.loads(found[1])


@pytest.mark.parametrize("source", [".gitignore", "launch/ray_head.sh"])
def test_no_module_is_left_out_of_a_job_and_environments_and_runs_are(source: str):
    spec = PathSpec.from_lines("gitwildmatch", patterns(source))
    assert [path for path in MODULES if spec.match_file(str(path))] == []
    for left_out in (".venv/bin/python", ".venv-judge/bin/python", "runs/unigrpo/metrics.jsonl"):
        assert spec.match_file(left_out)


def test_every_folder_with_modules_is_a_package():
    # A folder without __init__.py imports from a checkout, and is missing from a wheel.
    folders = {path.parent for path in MODULES}
    assert [folder for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []
