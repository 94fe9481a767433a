"""Tests metric files: one line per step, and after resuming no lines of steps that are made again."""

import hashlib
import importlib.util
import io
import json
import re
import sys
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.backend_context import Context as HParams

from unigrpo import ConfigError
from unigrpo.runs import metrics
from unigrpo.runs.metrics import MetricsWriter, read_metrics, read_rollouts


def test_metrics_and_samples_are_lines_with_their_step(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=True)
    writer.write(1, {"reward/total_mean": 0.5})
    writer.write_rollouts(1, [{"completion": "a\nb"}, {"completion": "c"}])
    writer.write_table(1, "answers", [{"prompt": "1 | 2", "answer": "a\n<b>", "reward": 1 / 3, "other": None}])
    writer.close()
    assert read_metrics(tmp_path) == [{"step": 1, "reward/total_mean": 0.5}]
    assert [row["completion"] for row in read_rollouts(tmp_path)] == ["a\nb", "c"]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("reward/total_mean")] == [0.5]
    table = events.Tensors("answers/text_summary")[0].tensor_proto.string_val[0].decode()
    assert table.splitlines()[2] == "| 1 &#124; 2 | a<br>&lt;b&gt; | 0.3333 |  |"


def test_resuming_deletes_lines_of_later_steps_and_an_incomplete_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s}) + "\n" for s in (0, 1, 2, 3)) + '{"step": 4, "rew')
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2, 3]
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.truncate_after(2)
    writer.write(3, {})
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2, 3]
    assert path.read_text().count("\n") == 4


def test_a_damaged_line_is_named_and_a_resumed_run_deletes_nothing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": "2"}\n{"step": 3}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl:2: step is '2', expected an integer; restore the file, or"):
        MetricsWriter(tmp_path, tensorboard=False).truncate_after(2)
    assert path.read_text().count("\n") == 3


def test_weights_and_biases_without_package_or_key_is_an_error(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for is_installed, message in ((False, "wandb is not installed"), (True, "WANDB_API_KEY is not")):
        spec = ModuleSpec("wandb", None) if is_installed else None
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(ValueError, match=message):
            MetricsWriter(tmp_path, tensorboard=False, wandb_project="mine")


class FakeRun:
    """A W&B run that records its calls."""

    def __init__(self, started: dict) -> None:
        self.started, self.logged, self.metrics = started, [], []

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        pass


def fake_wandb(init):
    """Replaces W&B by a module that records images and tables."""
    made = {"Image": staticmethod(lambda image: ("image", image.shape)), "Table": staticmethod(lambda **table: table)}
    return type("wandb", (), {"init": staticmethod(init), **made})


IMAGE = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
TABLE = [{"prompt": "1", "answer": "a", "reward/total": 0.5}, {"prompt": "2", "answer": "b", "reward/total": None}]


def test_weights_and_biases_gets_images_and_tables_with_their_step(tmp_path, monkeypatch):
    run = FakeRun({})
    monkeypatch.setattr(metrics, "check_tracking", lambda project: None)
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(lambda **_: run))
    writer = MetricsWriter(tmp_path, tensorboard=False, wandb_project="mine")
    writer.write_images(2, {"grid": IMAGE})
    writer.write_table(3, "samples", TABLE, [IMAGE, None])
    writer.write_table(4, "texts", TABLE, [None, None])
    writer.write_table(5, "none", [])
    columns = ["prompt", "answer", "reward/total"]
    assert run.logged == [
        {"step": 2, "grid": ("image", (4, 6, 3))},
        {
            "step": 3,
            "samples": {
                "columns": [*columns, "image"],
                "data": [["1", "a", 0.5, ("image", (4, 6, 3))], ["2", "b", None, None]],
            },
        },
        {"step": 4, "texts": {"columns": columns, "data": [["1", "a", 0.5], ["2", "b", None]]}},
    ]


@pytest.mark.slow
def test_the_real_package_stores_tables_with_images_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the package that logger.wandb_project uses: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        # The folder in which images of tables wait until they are sent.
        monkeypatch.setenv(name, str(tmp_path / "kept"))
    writer = MetricsWriter(tmp_path, tensorboard=False, wandb_project="mine", settings={"train": {"seed": 3}})
    writer.write(1, {"grad_norm": 0.5})
    writer.write_table(1, "eval/samples", TABLE, [IMAGE, None])
    writer.close()
    kept = [file.read_bytes() for file in (tmp_path / "kept").rglob("*") if file.is_file()]
    tables = [json.loads(content) for content in kept if content.startswith(b'{"_type": "table"')]
    assert tables[0]["columns"] == ["prompt", "answer", "reward/total", "image"]
    assert [row[:3] for row in tables[0]["data"]] == [["1", "a", 0.5], ["2", "b", None]]
    (cell, none) = (row[3] for row in tables[0]["data"])
    (png,) = (content for content in kept if hashlib.sha256(content).hexdigest() == cell["sha256"])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), IMAGE)
    assert none is None


def test_tensorboard_compares_runs_by_their_settings(tmp_path):
    for seed, folder in ((3, tmp_path / "a"), (4, tmp_path / "b")):
        settings = {"train": {"seed": seed, "clip": [0.2, 0.3]}, "data": {"path": None, "shuffle": True}}
        writer = MetricsWriter(folder, tensorboard=True, settings=settings)
        writer.write(1, {"eval/reward_total": seed / 8})
        writer.close()
    events = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    events.Reload()
    backend = HParams(TBContext(data_provider=MultiplexerDataProvider(events, str(tmp_path))))
    context = RequestContext()
    experiment = backend.experiment_from_metadata(context, "", True, backend.hparams_metadata(context, ""), [])
    found = {info.name: info.differs for info in experiment.hparam_infos}
    assert found == {"train.seed": True, "train.clip": False, "data.path": False, "data.shuffle": False}
    assert [info.name.tag for info in experiment.metric_infos] == ["eval/reward_total"]


def test_a_resumed_run_continues_the_same_run_of_weights_and_biases(tmp_path, monkeypatch):
    runs = []

    def init(**started):
        runs.append(FakeRun(started))
        return runs[-1]

    monkeypatch.setattr(metrics, "check_tracking", lambda project: None)
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(init))
    folder = tmp_path / "run"
    folder.mkdir()
    for _ in range(2):
        writer = MetricsWriter(folder, tensorboard=False, wandb_project="mine", settings={"train": {"seed": 3}})
        writer.write(1, {"grad_norm": 0.5})
        writer.close()
    first, second = (run.started for run in runs)
    assert first == second
    assert (first["project"], first["name"], first["resume"]) == ("mine", "run", "allow")
    assert first["config"] == {"train": {"seed": 3}}
    assert re.fullmatch(r"[0-9a-f]{8}", first["id"])
    assert runs[1].logged == [{"step": 1, "grad_norm": 0.5}], "W&B drops repeated steps of its own"
    assert runs[1].metrics == [("step", None), ("*", "step")]
