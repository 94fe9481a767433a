"""Tests the comparison of methods on the tiny data, and the figures and the closing sentence of the quickstart."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matplotlib.figure import Figure

from unigrpo.config import RunConfig

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "examples" / "tiny"


@pytest.fixture(scope="module")
def scripts() -> ModuleType:
    """Returns the modules of examples/tiny, imported as they import each other."""
    sys.path.insert(0, str(TINY))
    try:
        import before_after  # noqa: PLC0415
        import closing_sentence  # noqa: PLC0415
        import compare_methods  # noqa: PLC0415
        import multi_seed  # noqa: PLC0415
        import shapes  # noqa: PLC0415
    finally:
        sys.path.remove(str(TINY))
    module = ModuleType("scripts")
    module.__dict__.update(
        compare=compare_methods, closing=closing_sentence, seeds=multi_seed, samples=before_after, shapes=shapes
    )
    return module


def a_run(rate: float, seed: int, sums: tuple[float, ...]) -> dict[str, Any]:
    points = [{"step": 10 * i, "sums": share} for i, share in enumerate(sums)]
    return {"method": "m", "seed": seed, "learning_rate": rate, "seconds": 9.0, "points": points}


def test_gains_are_taken_at_equal_samples_and_at_the_time_of_the_fastest(scripts):
    slow, fast = a_run(1e-4, 1, (0.2, 0.4, 0.8)), a_run(3e-5, 1, (0.2, 0.3, 0.3))
    assert scripts.compare.gains(slow) == {"sums": pytest.approx(0.6)}
    assert scripts.compare.gains(slow, 0.25) == {"sums": pytest.approx(0.1)}, "the value halfway to the second point"
    assert scripts.compare.gains(slow, 0.75) == {"sums": pytest.approx(0.4)}
    assert scripts.compare.mean_gain(slow) > scripts.compare.mean_gain(fast)
    other = a_run(1e-4, 2, (0.2, 0.2, 0.6))
    lines = scripts.compare.table({"slow": [slow, other], "fast": [fast]}, {"slow": 8.0, "fast": 2.0}).splitlines()
    assert lines[0] == "| method | learning rate | sums | time of a step |"
    assert lines[2:] == [
        "| slow | 0.0001 | +0.500 (+0.400 to +0.600), +0.050 | 1.00 |",
        "| fast | 3e-05 | +0.100 (+0.100 to +0.100), +0.100 | 0.25 |",
    ]


def test_the_figure_has_a_column_for_each_method_with_the_first_one_in_grey(scripts, monkeypatch, tmp_path):
    figures: list[Any] = []
    monkeypatch.setattr(scripts.compare, "Figure", lambda **kwargs: figures.append(Figure(**kwargs)) or figures[-1])
    longer = a_run(1e-4, 2, (0.4, 0.6, 0.6))
    del longer["points"][1]  # a curve has the points that all runs of a method have
    first, second = [a_run(1e-4, 1, (0.2, 0.2, 0.6))], [a_run(1e-4, 1, (0.2, 0.4, 0.8)), longer]
    scripts.compare.figure({"first": first, "second": second}, tmp_path / "curves.png")
    left, right = figures[0].axes
    assert [left.get_title(), right.get_title()] == ["first", "second"]
    grey, mean = right.lines
    assert (grey.get_xdata().tolist(), grey.get_ydata().tolist()) == ([0, 10, 20], [0.2, 0.2, 0.6])
    assert (mean.get_xdata().tolist(), mean.get_ydata().tolist()) == ([0, 20], pytest.approx([0.3, 0.7]))


def test_a_method_may_name_its_learning_rates(scripts, monkeypatch, capsys):
    read = scripts.compare.method_and_rates
    assert read("trace, 2 views") == ("trace, 2 views", [])
    assert read("ESPO=6e-5,1.2e-4") == ("ESPO", [6e-5, 1.2e-4])
    for wrong, message in (
        ("espo=1e-4", "no method 'espo'; choose one of unigrpo,"),
        ("ESPO=fast", "must be numbers"),
    ):
        monkeypatch.setattr(sys, "argv", ["compare_methods.py", "--output", "x", "--methods", wrong])
        with pytest.raises(SystemExit):
            scripts.compare.parse_arguments()
        assert message in capsys.readouterr().err


def test_every_method_is_a_valid_config(scripts, monkeypatch):
    monkeypatch.chdir(ROOT)
    compare = scripts.compare
    made = {
        name: compare.config_from_args(
            compare.parse(compare.run_parser("x", "", RunConfig), ["--config", compare.CONFIG, *settings]),
            compare.RunConfig,
        ).algo
        for name, settings in compare.METHODS.items()
    }
    assert len(set(map(repr, made.values()))) == len(compare.METHODS), "two methods have the same settings"


def test_a_small_comparison_chooses_the_rate_and_reuses_finished_runs(scripts, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    arguments = [
        "compare_methods.py", "--output", str(tmp_path), "--methods", "wd1=1e-4,1e-3", "--seeds", "1",
        "--eval_steps", "0", "--data.tasks", "[text]",
        "--rollout.batch_size", "1", "--rollout.n_samples_per_prompt", "2", "--train.num_steps", "1",
        "--train.num_inner_updates", "1", "--eval.max_samples", "1", "--eval.n_samples_per_prompt", "1",
        "--data.max_samples", "4",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    scripts.compare.main()
    written = json.loads((tmp_path / "results.json").read_text())
    (run,) = written["runs"]["wd1"]
    assert run["seed"] == 1
    assert [point["step"] for point in run["points"]] == [0, 1]
    assert len(list(tmp_path.glob("run_wd1_seed*.json"))) == 3, "two rates with seed 0, one with seed 1"
    assert (tmp_path / "curves.png").stat().st_size > 0
    assert written["step_seconds"]["wd1"] > 0
    assert (tmp_path / "table.md").read_text().count("\n") == 3
    capsys.readouterr()
    monkeypatch.setattr(scripts.compare, "train", lambda config: pytest.fail("a finished run was trained again"))
    scripts.compare.main()
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out + "\n"


def test_the_closing_sentence_says_what_was_learned(scripts):
    before = {"math_answer_sampled/text": 0.31, "math_answer_greedy/text": 0.4, "shape_match_sampled/t2i": 0.6}
    after = {name: value + 0.1 for name, value in before.items()}
    summary = {"steps": 36, "wall_seconds": 280.4, "eval": {"before": before, "after": after}}
    sentence = scripts.closing.sentence(summary)
    assert sentence == (
        "After 280 s and 36 steps of UniGRPO, the policy answers 41% of the held-out sums right (31% before) and "
        "draws 70% of the held-out captions right (60% before)."
    )
    assert RunConfig.from_yaml(ROOT / "launch/configs/tiny/unigrpo.yaml").train.num_steps == scripts.closing.NUM_STEPS
    assert scripts.closing.sentence(summary | {"steps": 35}) == sentence.replace("36 steps", "35 steps") + (
        " The measured gains take the 36 steps of the config; after fewer, answers may be worse."
    )
    assert "no held-out prompts" in scripts.closing.sentence(summary | {"eval": {"before": {}, "after": {}}})


def test_the_run_of_a_seed_is_read_from_its_folder(scripts, tmp_path):
    (tmp_path / "config.yaml").write_text("# commit: abc\ntrain: {seed: 3}\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    (tmp_path / "summary.json").write_text('{"wall_seconds": 2.0}')
    assert scripts.seeds.read(tmp_path) == {
        "seed": 3, "commit": "abc", "metrics": [{"step": 1, "loss": 0.5}], "wall_seconds": 2.0,
    }  # fmt: skip


def test_the_figure_of_seeds_has_the_steps_that_have_prompts_of_a_task_in_all_runs(scripts, tmp_path, monkeypatch):
    def run(*steps: int) -> dict[str, Any]:
        names = list(scripts.seeds.SHOWN.values())
        training = [{"step": s} | {f"reward/{n.replace('_{}', '_mean')}": s / 10 for n in names} for s in steps]
        return {"metrics": [{"step": 0} | {f"eval/{n.format('sampled')}": 0.5 for n in names}, *training]}

    figures: list[Any] = []
    monkeypatch.setattr(scripts.seeds, "Figure", lambda **kwargs: figures.append(Figure(**kwargs)) or figures[-1])
    scripts.seeds.draw_figure([run(1, 2, 4), run(2, 3, 4)], tmp_path / "curve.png")
    curve, *held_out = figures[0].axes[0].lines
    assert curve.get_xdata().tolist() == [2, 4]
    # The moving averages at steps 2 and 4 are (0.1 + 0.2) / 2 and 0.7 / 3 in the first run, 0.2 and 0.9 / 3 in the
    # second.
    assert curve.get_ydata().tolist() == pytest.approx([(0.15 + 0.2) / 2, (0.7 / 3 + 0.3) / 2])
    assert [line.get_ydata().tolist() for line in held_out] == [[0.5], [0.5]]
    assert (tmp_path / "curve.png").stat().st_size > 0


def test_an_image_that_does_not_show_its_caption_has_a_red_frame(scripts):
    caption = "a small red circle on the left and a large blue square on the right"
    image = scripts.shapes.draw(scripts.shapes.parse(caption))
    right, wrong = (scripts.samples.framed(image, text) for text in (caption, caption.replace("small", "large")))
    edge = scripts.samples.FRAME
    assert right.shape == wrong.shape == (scripts.samples.SIDE, scripts.samples.SIDE, 3)
    assert (right[:edge] == 255).all()
    assert (wrong[:edge] == (255, 0, 0)).all()
    assert (right[edge:-edge, edge:-edge] == wrong[edge:-edge, edge:-edge]).all()
