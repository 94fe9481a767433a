"""The model card (README.md) of an exported policy: base, data, rewards, metrics, settings and licence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import yaml

from unigrpo import ConfigError, __version__
from unigrpo.config import BaseRunConfig, PromptFiles, RunConfig, prompt_files
from unigrpo.config.denoising import StageConfig
from unigrpo.config.typed_files import read_json
from unigrpo.config.yaml_text import load_yaml
from unigrpo.runs.config_file import commit
from unigrpo.runs.metrics import read_metrics
from unigrpo.runs.secrets import without_secrets

CARD = "README.md"
SOURCE_SUFFIX = ".source.json"
"""End of the record that ``unigrpo prepare`` writes beside a prompt file."""
UNKNOWN = "not known"
HELD_OUT = ("eval/", "validation/")
"""Beginnings of the names of held-out metrics."""


class SourceRecord(TypedDict, total=False):
    """The fields of the record of ``unigrpo prepare`` that the model card uses."""

    rows: dict[str, Any]
    source: Any
    licence: Any


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a run when its policy was exported."""

    step: int
    before: Mapping[str, float] = field(default_factory=dict[str, float])
    """Held-out metrics before the first step."""
    after: Mapping[str, float] = field(default_factory=dict[str, float])
    """Held-out metrics of the last evaluation up to this step."""


def read_progress(run: Path, step: int) -> Progress:
    """Returns the held-out metrics of a run directory: the first ones, and the last ones up to a step.

    Raises:
        ConfigError: A line of ``metrics.jsonl`` holds something else than metrics.
    """
    found = [_held_out(row) for row in read_metrics(run) if row["step"] <= step]
    measured = [values for values in found if values]
    return Progress(step=step, before=measured[0], after=measured[-1]) if measured else Progress(step=step)


def write_model_card(folder: Path, config: BaseRunConfig, progress: Progress) -> None:
    """Writes the model card into the folder of an exported policy."""
    (folder / CARD).write_text(model_card(config, progress), encoding="utf-8")


def model_card(config: BaseRunConfig, progress: Progress) -> str:
    """Returns the model card of a policy.

    Paths of folders on this machine are shown by their last names alone.
    """
    base = config.actor.model_name_or_path
    head: dict[str, Any] = {"library_name": "unigrpo", "tags": ["masked-diffusion", "unigrpo"]}
    licence = base_licence(base)
    head["license"] = licence or "other"
    if not Path(base).exists():
        head["base_model"] = base
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=True)}---",
        f"# {_shown(config.run_dir)}, step {progress.step}",
        f"A masked-diffusion language model, trained from `{_shown(base)}` by {_method(config)} with UniGRPO "
        f"{__version__} (commit `{commit()}`).",
        "## Licence\n\n"
        + (
            f"The base model names the licence `{licence}`. "
            if licence
            else "The files of the base model here name no licence; that of the base model holds. "
        )
        + "The licences of the data are listed below where they are known.",
        "## Data\n\n" + _table(("data", "rows", "licence", "source"), _data_rows(config)),
    ]
    if isinstance(config, RunConfig):
        rows = [
            (f"`{_shown(t.name)}`", f"{t.weight:g}", ", ".join(t.tasks) or "all", t.only or "all")
            for t in config.reward.terms
        ]
        parts.append("## Rewards\n\n" + _table(("reward", "weight", "tasks", "prompts"), rows))
    parts.append("## Held-out metrics\n\n" + _metrics(progress))
    parts.append(
        '## Use\n\n```bash\nunigrpo generate --model FOLDER --task text --prompts "..." --output out\n```\n\n'
        "`sampling.json` has the sampling settings, the resolution and the instructions of the run, which "
        "`unigrpo generate` and `unigrpo demo` take over."
    )
    settings = yaml.safe_dump(
        json.loads(json.dumps(_without_folders(without_secrets(config.to_dict())))), sort_keys=False
    )
    parts.append(f"## Settings\n\n```yaml\n{settings}```")
    return "\n\n".join(parts) + "\n"


def base_licence(base: str) -> str:
    """Returns the licence that the model card in the folder of a model names; empty if it names none."""
    file = Path(base) / CARD
    if not file.is_file():
        return ""
    head = file.read_text(encoding="utf-8", errors="replace").split("---")
    try:
        values = load_yaml(head[1]) if len(head) > 2 else None
    except yaml.YAMLError:
        return ""
    return str(values.get("license") or "") if isinstance(values, dict) else ""


def _method(config: BaseRunConfig) -> str:
    return "UniGRPO (arXiv:2505.15809)" if isinstance(config, RunConfig) else "masked denoising (arXiv:2505.15809)"


def _data_rows(config: BaseRunConfig) -> list[tuple[str, ...]]:
    if isinstance(config, StageConfig):
        sources = [source for modality in config.modalities.values() for source in modality.sources.values()]
        return [(f"`{_shown(source.path)}`", UNKNOWN, UNKNOWN, source.task) for source in sources]
    if not isinstance(config, RunConfig):
        return []
    rows = _prompt_rows(config.data.prompt_dataset, "")
    return rows + (_prompt_rows(config.eval.dataset, " (held out)") if config.eval.dataset else [])


def _prompt_rows(files: PromptFiles, remark: str) -> list[tuple[str, ...]]:
    """Returns a row for each prompt file, with what ``unigrpo prepare`` wrote about it."""
    rows: list[tuple[str, ...]] = []
    for file in prompt_files(files):
        record = Path(file.path + SOURCE_SUFFIX)
        advice = "restore the file, or delete it; then the model card says nothing about the data"
        found = read_json(record, SourceRecord, ConfigError, advice) if record.is_file() else {}
        kept = found.get("rows", {}).get("kept", UNKNOWN)
        source = _shown(str(found.get("source", UNKNOWN)))
        rows.append((f"`{_shown(file.path)}`{remark}", str(kept), str(found.get("licence", UNKNOWN)), source))
    return rows


def _metrics(progress: Progress) -> str:
    if not progress.after:
        return "Nothing was measured on held-out data."
    rows = [
        (name, f"{progress.before[name]:.3f}" if name in progress.before else "", f"{value:.3f}")
        for name, value in progress.after.items()
    ]
    return _table(("metric", "before", f"up to step {progress.step}"), rows)


def _held_out(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.startswith(HELD_OUT)}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def _shown(path: str) -> str:
    """Returns the last two names of an absolute path; other names as they are."""
    parts = Path(path).parts
    return "/".join(parts[-2:]) if Path(path).is_absolute() else path


def _without_folders(value: Any) -> Any:
    """Returns settings with absolute paths shortened, since they say nothing about the model."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(item) for item in value]
    return _shown(value) if isinstance(value, str) and value.startswith("/") else value
