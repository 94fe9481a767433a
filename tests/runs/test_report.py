"""The report: of a finished run, of one that died, and with text of the model that is no HTML."""

import base64
import html
import io
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from unigrpo.config import LoggerConfig, RunConfig
from unigrpo.runs.directory import RunDirectory
from unigrpo.runs.image_grid import captioned_grid
from unigrpo.runs.report import _draw_rewards, moving_average, write_report


def write_run(folder, *, finished=True, completion="5"):
    folder.mkdir(exist_ok=True)
    rows: list[dict[str, float]] = [{"step": 0, "eval/reward_total": 0.5}]
    for step in (1, 2, 3):
        rows.append(
            {
                "step": step,
                "reward/total_mean": 0.1 * step,
                "reward/math_answer_mean": 0.05 * step,
                "kl/reference_nats": 0.01,
                "ratio/clipped_fraction_mask_0.25_0.50": 0.1,
                "grad_norm": 1.0,
                **{f"time/{n}_seconds": 1.0 for n in ("generate", "reward", "score", "update", "sync")},
            }
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sample = {"step": 1, "kind": "train", "prompt": "2+3", "completion": completion, "label": "5", "reward": 2.0}
    (folder / "rollouts.jsonl").write_text(json.dumps(sample) + "\n")
    (folder / "config.yaml").write_text("# commit: abc\nrun_dir: x\n")
    if finished:
        before, after = {"math_answer_greedy": 0.25}, {"math_answer_greedy": 0.75}
        summary = {"steps": 3, "wall_seconds": 30.0, "eval": {"before": before, "after": after}}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_finished_run_has_its_pictures_and_its_table(tmp_path):
    folder = write_run(tmp_path / "run")
    text = write_report(folder).read_text()
    for part in (
        "<td>math_answer</td>",
        "<th>greedy: before</th>",
        "0.250",
        "0.750",
        "+0.500",
        "10.00 s per step",
        "# commit: abc",
    ):
        assert part in text
    for name in ("reward_curve.png", "policy.png", "time.png"):
        assert f"src='{name}'" in text
        assert Image.open(folder / name).size > (100, 100)


def test_a_run_that_died_has_a_report_too(tmp_path):
    text = write_report(write_run(tmp_path / "run", finished=False)).read_text()
    assert "Not finished: 3 steps so far" in text
    assert "reward_curve.png" in text


def test_what_the_model_wrote_cannot_become_html(tmp_path):
    text = write_report(
        write_run(tmp_path / "run", completion="<think>1</think><script>alert(1)</script>")
    ).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


@pytest.mark.parametrize(("number", "num_shown"), [(1, 1), (24, 24), (64, 24), (100, 24)])
def test_samples_are_spread_over_the_run_and_over_tasks_that_take_turns(tmp_path, number, num_shown):
    folder = write_run(tmp_path / "run")
    rows = [{"step": i, "kind": "train", "task": ("mmu", "t2i", "text")[i % 3]} for i in range(number)]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = write_report(folder).read_text().partition("Samples of the training")[2].partition("<h2>")[0]
    shown = re.findall(r"<td class='n'>(\d+)</td><td>(\w+)</td>", table)
    assert len(shown) == num_shown
    assert (shown[0][0], shown[-1][0]) == ("0", str(number - 1))
    assert number == 1 or min(sum(task == name for _, task in shown) for name in ("mmu", "t2i", "text")) >= 5


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no metrics\.jsonl with a step in it; name the folder of a run"):
        write_report(tmp_path)


def test_the_moving_average_by_hand():
    assert moving_average([3.0, 5.0, 1.0, 9.0], window=3) == [3.0, 4.0, 3.0, 5.0]


def test_each_reward_has_a_panel_or_with_several_tasks_the_total_of_each(tmp_path):
    metrics = write_run(tmp_path / "run") / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure = Figure()
    _draw_rewards(figure, rows)
    total, answer = figure.axes
    assert (total.get_title(), answer.get_title()) == ("weighted total", "math_answer, unweighted")
    assert np.asarray(answer.lines[0].get_ydata()) == pytest.approx([0.05, 0.1, 0.15])
    assert np.asarray(total.lines[-1].get_ydata()).tolist() == [0.5]
    for task, value in (("mmu", 1.0), ("t2i", 8.0)):
        rows[1] |= {f"reward/total_mean/{task}": value}
        rows[0] |= {f"eval/reward_total_sampled/{task}": value / 2, f"eval/math_answer_sampled/{task}": 0.5}
    figure = Figure()
    _draw_rewards(figure, rows)
    assert [axes.get_title() for axes in figure.axes] == ["mmu: weighted total", "t2i: weighted total"]
    assert [[np.asarray(line.get_ydata())[0] for line in axes.lines[::2]] for axes in figure.axes] == [
        [1.0, 0.5],
        [8.0, 4.0],
    ]


def test_a_run_of_several_tasks_shows_each_and_what_was_drawn_before_and_after(tmp_path):
    folder = write_run(tmp_path / "run")
    assert "tasks.png" not in write_report(folder).read_text()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for i in (0, 3):
        rows[i] |= {"eval/math_answer_sampled/mmu": 0.1 * i, "eval/clip_score_sampled/t2i": 30.0 + i}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "drawings").mkdir()
    colours = {0: [255, 0, 0], 1: [0, 255, 0], 3: [0, 0, 255]}
    for step, colour in colours.items():
        drawing = np.full((8, 8, 3), colour, dtype=np.uint8)
        page = captioned_grid([("a dot", (drawing,)), ("a rather long text that takes two lines", (drawing,))])
        page.save(folder / "drawings" / f"step_{step:08d}.png")
    text = write_report(folder).read_text()
    assert "src='tasks.png'" in text
    drawn = text[text.index("Drawn before and after") :]
    assert "row 1: step 0; row 2: step 3</p><img src='drawings.png'" in drawn
    both = np.asarray(Image.open(folder / "drawings.png"))
    head = both.shape[0] - 2 * (128 + 4)
    assert (both[:head] != 255).any()
    rows = (both[head : head + 128], both[head + 132 : head + 260])
    for row, step in zip(rows, (0, 3), strict=True):
        assert (row == colours[step]).all(axis=-1).sum() == 2 * 128 * 128
    assert both.shape[1] == 2 * (128 + 4)


def test_grids_are_files_by_name_and_step(tmp_path):
    output = RunDirectory(RunConfig(run_dir=str(tmp_path), logger=LoggerConfig(tensorboard=False)), 0)
    red = np.zeros((4, 4, 3), dtype=np.uint8) + np.array([255, 0, 0], dtype=np.uint8)
    output.images(3, {"drawings": captioned_grid([("red", (red,))])})
    output.close()
    page = np.asarray(Image.open(tmp_path / "drawings" / "step_00000003.png"))
    assert (page == red[0, 0]).all(axis=-1).sum() == 128 * 128


def test_the_same_prompts_are_answered_before_and_after(tmp_path):
    folder = write_run(tmp_path / "run")
    row = {"kind": "eval", "task": "mmu", "prompt_id": "p:1", "prompt": "how many?", "label": "2"}
    rows = [
        {**row, "step": step, "completion": f"<b>{text}<|eot_id|>"}
        for step, text in ((0, "one"), (2, "no"), (3, "two"))
    ]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    text = write_report(folder).read_text()
    answers = text[text.index("Answers before and after") : text.index("<h2>Config")]
    assert "at step 0" in answers
    assert "at step 3" in answers
    assert "<td class='gold'><code>2</code>" in answers
    assert "&lt;b&gt;one</code>" in answers
    assert "&lt;b&gt;two</code>" in answers
    assert "no" not in answers.replace("now", "")


def test_each_task_has_its_rows_in_the_table_and_all_together_stand_last(tmp_path):
    folder = write_run(tmp_path / "run")
    after = {"a_greedy": 0.5, "a_greedy/text": 0.4, "a_greedy/mmu": 0.6, "a_sampled/mmu": 0.2, "reward_total": 1.0}
    summary = {"steps": 1, "wall_seconds": 1.0, "eval": {"before": {**after, "a_greedy/mmu": 0.7}, "after": after}}
    (folder / "summary.json").write_text(json.dumps(summary))
    text = write_report(folder).read_text()
    table = text[text.index("Held out, before and after") : text.index("<h2>Reward")]
    rows = [re.sub(r"<[^>]*>+", " ", row).split() for row in table.split("<tr>")[2:]]
    assert rows == [
        ["text", "a", "0.400", "0.400", "+0.000"],
        ["mmu", "a", "0.700", "0.600", "-0.100", "0.200", "0.200", "+0.000"],
        ["all", "a", "0.500", "0.500", "+0.000"],
    ]
    assert table.count("bad") == 1
    assert "good" not in table


def test_the_ledger_of_a_run_is_drawn_and_its_means_stand_in_a_table(tmp_path):
    folder = write_run(tmp_path / "run")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows[1:]:
        row |= {
            "time/step_seconds": 10.0,
            "perf/policy_generate_seconds": 2.0 * row["step"],  # 4 in the mean
            "perf/policy_idle_seconds": 5.0,
            "perf/policy_tflops": 400.0,
            "perf/policy_mfu": 0.4044,
            "memory/policy_peak_gb": 61.5,
            "perf/reference_log_likelihood_seconds": 1.0,
            "perf/reference_idle_seconds": 9.0,
            "throughput/tokens_per_second_per_gpu": 1234.0,
        }
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report(folder).read_text()
    assert "<td>policy</td><td class='n'>50%</td><td class='n'>400</td><td class='n'>40.4%</td>" in text
    assert "61.50" in text
    assert "<td>reference</td><td class='n'>90%</td>" in text
    assert "1,234.0 tokens a second" in text
    assert Image.open(folder / "roles.png").size > (100, 100)


def test_a_picture_that_is_asked_about_stands_in_the_page_and_a_lost_one_is_named(tmp_path):
    folder = write_run(tmp_path / "run")
    Image.new("RGB", (192, 96), "red").save(tmp_path / "red.png")
    lost = str(tmp_path / "<lost>.png")
    row = {"kind": "eval", "task": "mmu", "prompt": "how many?", "label": "2", "completion": "two"}
    rows = [
        {**row, "step": step, "prompt_id": name, "images": [path]}
        for step in (0, 3)
        for name, path in (("p:1", str(tmp_path / "red.png")), ("p:2", lost))
    ]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    text = write_report(folder).read_text()
    (data,) = re.findall(r"src='data:image/png;base64,([^']+)'", text)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert shown.shape == (48, 96, 3)
    assert (shown == [255, 0, 0]).all()
    assert html.escape(lost) in text
    assert lost not in text
