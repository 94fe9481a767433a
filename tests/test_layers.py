"""Tests the order of the packages: a file may only import packages that are before its own.

AGENTS.md shows the same order with one sentence for each package.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOUNDATION = ("rng", "plugins", "image_store", "records", "batches")
"""The only modules directly under unigrpo/."""
ORDER = (
    *FOUNDATION,
    "config",
    "algorithm",
    "models",
    "data",
    "training",
    "cost",
    "runs",
    "workers",
    "evaluation",
    "checks",
    "trainers",
    "library",
    "distributed",
    "integrations",
    "cli",
)
"""Modules and packages of unigrpo/, each of which may import those before it."""
ROOT_NAMES = {"unigrpo.ConfigError", "unigrpo.DataError", "unigrpo.CheckpointError", "unigrpo.__version__"}
"""Names that every file may import from unigrpo itself. The other public names there come from packages."""
NEVER = {("distributed", "trainers"), ("distributed", "library"), ("checks", "evaluation"), ("evaluation", "checks")}
"""Pairs of packages of which the first must not import the second, although it is after it."""
USES_REWARDS = {"workers", "checks", "distributed", "cli"}
CLUSTER = {"ray", "deepspeed", "openrlhf", "vllm"}
PURE = {"torch", "jaxtyping", "unigrpo", "__future__"}
"""Packages that the algorithm may import, in addition to the modules of the standard library below."""
STANDARD = {"abc", "collections", "dataclasses", "hashlib", "inspect", "itertools", "math", "typing", "functools"}


def imports(source: str) -> set[str]:
    """Returns the modules that a file imports anywhere, by a statement or by a string that names a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"\A(unigrpo\.[a-z_][\w.]*)(?::\w+)?\Z", node.value))
    return found


def room(path: str) -> str:
    """Returns the package of a file or dotted module of unigrpo; it is empty for __init__.py and __main__.py."""
    parts = path.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if len(parts) > 1 and parts[1] not in ("__init__", "__main__") else ""


def violations(path: str, source: str) -> list[str]:
    """Returns every import of a file that breaks a rule."""
    found = []
    in_unigrpo = path.startswith("unigrpo/") and room(path) != ""
    for module in sorted(imports(source)):
        root = module.split(".")[0]
        if root in CLUSTER and not path.startswith("unigrpo/distributed/"):
            found.append(f"{path} imports {module}; only unigrpo/distributed may")
        if path.startswith("unigrpo/algorithm/") and root not in PURE | STANDARD:
            found.append(f"{path} imports {module}; the algorithm uses torch only")
        if path.startswith("rewards/") and root == "unigrpo":
            found.append(f"{path} imports {module}; rewards import nothing of unigrpo")
        if in_unigrpo and root == "rewards" and room(path) not in USES_REWARDS:
            found.append(f"{path} imports {module}; only {sorted(USES_REWARDS)} may")
        if in_unigrpo and root == "unigrpo":
            own, other = room(path), room(module)
            if other not in ORDER:
                if module not in ROOT_NAMES:
                    found.append(f"{path} imports {module}, which is no package; import it from its own module")
            elif ORDER.index(other) > ORDER.index(own):
                found.append(f"{path} imports {module}: {other} does not stand before {own}")
            elif (own, other) in NEVER:
                found.append(f"{path} imports {module}: {own} and {other} must not import each other")
        if module.startswith("."):
            found.append(f"{path} imports {module}; name the module in full")
    return found


def sources() -> list[str]:
    return [
        str(p.relative_to(ROOT)) for folder in ("unigrpo", "rewards") for p in sorted((ROOT / folder).rglob("*.py"))
    ]


def test_every_import_follows_the_order():
    assert [v for path in sources() for v in violations(path, (ROOT / path).read_text())] == []


def test_every_file_has_a_package():
    packages = {room(path) for path in sources() if path.startswith("unigrpo/")} - {""}
    assert packages == set(ORDER)
    loose = {p.stem for p in (ROOT / "unigrpo").glob("*.py")} - {"__init__", "__main__"}
    assert loose == set(FOUNDATION)


def test_the_developer_guide_shows_the_same_order():
    guide = (ROOT / "AGENTS.md").read_text()
    section = guide.partition("## Packages")[2].partition("\n## ")[0]
    described = re.findall(r"^\| `(\w+)` \| \S.*\. \|$", section, re.MULTILINE)
    assert described == [*reversed(ORDER)]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("unigrpo/algorithm/masking.py", "from unigrpo.models.mmada import MMadaConfig"),
        ("unigrpo/algorithm/masking.py", "import transformers"),
        ("unigrpo/models/mmada.py", "from unigrpo.trainers.unigrpo import UniGRPOTrainer"),
        ("unigrpo/trainers/unigrpo.py", "import ray"),
        ("unigrpo/trainers/unigrpo.py", "from unigrpo.distributed import cluster"),
        ("unigrpo/distributed/cluster.py", "from unigrpo.trainers.unigrpo import UniGRPOTrainer"),
        ("unigrpo/evaluation/held_out.py", "from unigrpo.checks.unigrpo import Inputs"),
        ("unigrpo/workers/policy.py", "def f():\n    from deepspeed import ops"),
        ("unigrpo/training/optimizer_step.py", "from unigrpo.distributed import engine"),
        ("unigrpo/records.py", "from unigrpo.data.chat import chat_text"),
        ("unigrpo/records.py", "from unigrpo.config import TASKS"),
        ("unigrpo/image_store.py", "from unigrpo.records import Prompt"),
        ("unigrpo/algorithm/kl.py", "def f():\n    from unigrpo import Policy"),
        ("unigrpo/models/lora.py", "from .. import data"),
        ("unigrpo/data/chat.py", "def f():\n    importlib.import_module('unigrpo.trainers.base')"),
        ("unigrpo/config/algo.py", "from unigrpo.algorithm import kl"),
        ("rewards/base.py", "from unigrpo.records import Prompt"),
        ("unigrpo/models/mmada.py", "from rewards.base import Reward"),
    ],
)
def test_the_check_sees_a_wrong_import(path, source):
    assert len(violations(path, source)) == 1


def test_the_check_lets_right_imports_pass():
    source = "from unigrpo.workers.policy import PolicyWorker\nimport torch"
    assert violations("unigrpo/trainers/unigrpo.py", source) == []
    assert violations("unigrpo/distributed/engine.py", "import ray, deepspeed") == []
    assert violations("unigrpo/checks/unigrpo.py", "from unigrpo.checks.denoising import check_stage") == []


def test_only_the_vocabulary_has_token_ids_as_numbers():
    """MMaDA's ids have six digits and start at 126080. A second copy of one could become wrong unnoticed."""
    wrong = []
    for path in sources():
        if path == "unigrpo/models/vocabulary.py":
            continue
        source = (ROOT / path).read_text()
        if not re.search(r"\d{6}|\d_\d{3}|0x", source, re.IGNORECASE):  # parsing every file takes seconds
            continue
        numbers = [n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant)]
        wrong += [
            (path, n) for n in numbers if isinstance(n, int) and not isinstance(n, bool) and 126080 <= n <= 134655
        ]
    assert wrong == []
