"""The layers: an import may only point down. The picture stands in AGENTS.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLUSTER = {"ray", "deepspeed", "openrlhf", "vllm"}
BASE = {"unigrpo.config", "unigrpo.records", "unigrpo.plugins", "unigrpo.metrics"}
"""Below all layers."""
LAYERS = {
    "unigrpo/algorithm": 0,
    "unigrpo/models": 1,
    "unigrpo/data": 1,
    "unigrpo/training": 2,
    "unigrpo/workers": 2,
    "unigrpo/evaluation": 2,
    "unigrpo/trainer.py": 2,
    "unigrpo/checkpoint.py": 2,
    "unigrpo/preflight.py": 2,
    "unigrpo/hardware.py": 2,
    "unigrpo/memory_plan.py": 2,
    "unigrpo/step_time.py": 2,
    "unigrpo/pages.py": 2,
    "unigrpo/report.py": 2,
    "unigrpo/report_ledger.py": 2,
    "unigrpo/rollout_source.py": 2,
    "unigrpo/run_folder.py": 2,
    "unigrpo/stage_config.py": 2,
    "unigrpo/stage_folder.py": 2,
    "unigrpo/stage_preflight.py": 2,
    "unigrpo/stage_trainer.py": 2,
    "unigrpo/distributed": 3,
    "unigrpo/cli": 4,
}
PURE = {"torch", "jaxtyping", "unigrpo", "__future__"}
"""All that the algorithm may import, besides the standard library."""
STANDARD = {"abc", "collections", "dataclasses", "hashlib", "inspect", "itertools", "math", "typing", "functools"}


def imports(source: str) -> set[str]:
    """Modules that a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(path: str) -> int | None:
    """The layer of a file or dotted module; None below all layers."""
    slashed = path if path.endswith(".py") else path.replace(".", "/")
    for prefix, number in LAYERS.items():
        stem = prefix.removesuffix(".py")
        if slashed in (prefix, stem) or slashed.startswith((prefix + "/", stem + "/")):
            return number
    return None


def violations(path: str, source: str) -> list[str]:
    """What a file imports and must not."""
    found = []
    own = layer(path)
    for module in sorted(imports(source)):
        root = module.split(".")[0]
        if root in CLUSTER and not path.startswith(("unigrpo/distributed/", "tests/", "examples/")):
            found.append(f"{path} imports {module}; only unigrpo/distributed may")
        if path.startswith("unigrpo/algorithm/") and root not in PURE | STANDARD:
            found.append(f"{path} imports {module}; the algorithm knows torch only")
        if path.startswith("rewards/") and root == "unigrpo":
            found.append(f"{path} imports {module}; rewards are a leaf")
        if root == "rewards" and path.startswith("unigrpo/") and own not in (2, 3, 4):
            found.append(f"{path} imports {module}; only workers and above use rewards")
        target = layer(module)
        if root == "unigrpo" and own is not None and target is not None and target > own:
            found.append(f"{path} (layer {own}) imports {module} (layer {target}): upward")
        if root == "unigrpo" and own is None and path.startswith("unigrpo/") and target is not None:
            found.append(f"{path} (below all layers) imports {module} (layer {target})")
    return found


def sources() -> list[str]:
    return [
        str(p.relative_to(ROOT)) for folder in ("unigrpo", "rewards") for p in sorted((ROOT / folder).rglob("*.py"))
    ]


def test_no_import_points_upward():
    assert [v for path in sources() for v in violations(path, (ROOT / path).read_text())] == []


def test_every_file_has_its_layer():
    below = {"unigrpo/__init__.py", *(f"{name.replace('.', '/')}.py" for name in BASE)}
    no_layer = [p for p in sources() if p.startswith("unigrpo/") and layer(p) is None]
    assert [p for p in no_layer if p not in below and not p.startswith("unigrpo/config/")] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("unigrpo/algorithm/masking.py", "from unigrpo.models.mmada import MMadaConfig"),
        ("unigrpo/algorithm/masking.py", "import transformers"),
        ("unigrpo/models/mmada.py", "from unigrpo.trainer import UniGRPOTrainer"),
        ("unigrpo/trainer.py", "import ray"),
        ("unigrpo/workers/policy.py", "def f():\n    from deepspeed import ops"),
        ("unigrpo/training/step.py", "from unigrpo.distributed import engine"),
        ("unigrpo/records.py", "from unigrpo.data.collate import pad_rows"),
        ("rewards/base.py", "from unigrpo.records import Prompt"),
        ("unigrpo/models/mmada.py", "from rewards.base import Reward"),
    ],
)
def test_the_check_sees_a_wrong_import(path, source):
    assert len(violations(path, source)) == 1


def test_the_check_lets_right_imports_pass():
    assert violations("unigrpo/trainer.py", "from unigrpo.workers.policy import PolicyWorker\nimport torch") == []
    assert violations("unigrpo/distributed/engine.py", "import ray, deepspeed") == []


def test_id_numbers_stand_in_the_vocabulary_alone():
    """MMaDA's ids are six digits from 126080 on; written elsewhere they would go out of step."""
    wrong = []
    for path in sources():
        if path == "unigrpo/models/vocabulary.py":
            continue
        numbers = [n.value for n in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(n, ast.Constant)]
        wrong += [
            (path, n) for n in numbers if isinstance(n, int) and not isinstance(n, bool) and 126080 <= n <= 134655
        ]
    assert wrong == []
