"""Tests the page that compares runs: settings that differ, plots, and confidence intervals relative to the first
run."""

import json

import numpy as np
import pytest

from unigrpo.cli import report
from unigrpo.runs import comparison
from unigrpo.runs.comparison import changed_settings, held_out_rows, read_run, write_comparison


def write_run(folder, rate, gain, *, steps=(1, 2, 3)):
    folder.mkdir(parents=True)
    rows = [{"step": 0, "eval/a_greedy": 0.0}]
    rows += [
        {"step": s, "reward/total_mean": s * gain, "eval/a_greedy": gain, "time/step_seconds": 20.0} for s in steps
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = [
        {"step": s, "task": "text", "prompt_id": f"p:{i}", "scores": {"a_greedy": gain * (i > 0) if s else 0.0}}
        for s in (0, 3)
        for i in range(6)
    ]
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scores))
    settings = f"run_dir: {folder}\nactor: {{model_name_or_path: m, adam: {{lr: {rate}}}}}\ntrain: {{seed: 1}}\n"
    (folder / "config.yaml").write_text(f"# commit: abc\n{settings}")
    return folder


def test_settings_that_differ_are_listed_with_their_values(tmp_path):
    runs = [read_run(write_run(tmp_path / name, rate, 0.5)) for name, rate in (("a", 0.1), ("b", 0.2))]
    assert changed_settings(runs) == [("actor.adam.lr", ["0.1", "0.2"])]
    assert changed_settings([runs[0], runs[0]]) == []


def test_values_come_with_the_interval_of_the_difference_to_the_first_run(tmp_path):
    runs = [read_run(write_run(tmp_path / name, 0.1, gain)) for name, gain in (("a", 0.0), ("b", 1.0))]
    ((metric, [(first, none), (second, gain)]),) = held_out_rows(runs)
    assert (metric, first, none, second) == ("a_greedy", 0.0, None, 1.0)
    assert gain is not None
    # The differences 0, 1, 1, 1, 1, 1 have mean 5/6, standard deviation 0.40825, standard error 1/6, and quantile
    # 2.5706.
    assert (gain.n, gain.low) == (6, pytest.approx(5 / 6 - 2.5706 / 6, abs=1e-3))


def test_the_duration_is_that_of_the_report(tmp_path):
    folder = write_run(tmp_path / "a", 0.1, 0.5)
    assert read_run(folder).facts["duration"] == "1.0 min", "the time of the steps if the run has not ended"
    (folder / "summary.json").write_text(json.dumps({"steps": 3, "wall_seconds": 90.0}))
    assert read_run(folder).facts["duration"] == "1.5 min", "the time includes the evaluations"


def test_each_metric_has_a_panel_with_a_line_of_each_run(tmp_path, monkeypatch):
    runs = [read_run(write_run(tmp_path / "a", 0.1, 0.5)), read_run(write_run(tmp_path / "b", 0.1, 1.0, steps=(1, 2)))]
    drawn = {}

    class Recorded(comparison.Figure):
        def savefig(self, *args, **kwargs):
            for axes in self.axes:
                drawn[axes.get_title()] = [np.asarray(line.get_ydata()).tolist() for line in axes.lines]
            super().savefig(*args, **kwargs)

    monkeypatch.setattr(comparison, "Figure", Recorded)
    assert comparison.curves(runs)
    assert drawn["reward/total_mean"] == [[0.5, 0.75, 1.0], [1.0, 1.5]]  # moving averages
    assert drawn["time/step_seconds"] == [[20.0, 20.0, 20.0], [20.0, 20.0]]
    assert "eval/a_greedy" not in drawn


def test_the_command_writes_one_page_for_several_runs(tmp_path, capsys):
    folders = [write_run(tmp_path / parent / "<run>", rate, 0.5) for parent, rate in (("x", 0.1), ("y", 0.2))]
    page = tmp_path / "page.html"
    assert report.run([*map(str, folders), "--output", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    html = page.read_text()
    assert "<td><code>actor.adam.lr</code></td><td><code>0.1</code></td><td><code>0.2</code></td>" in html
    assert "x/&lt;run&gt; (1)" in html
    assert "<run>" not in html
    assert "data:image/png;base64," in html
    with pytest.raises(ValueError, match=r"no metrics\.jsonl"):
        write_comparison([folders[0], tmp_path], page)
