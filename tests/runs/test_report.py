"""Tests the report of a finished run, of a run that died and of a stage, and texts of the model that look like
HTML."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from unigrpo.config import LoggerConfig, RunConfig
from unigrpo.runs.directory import RunDirectory
from unigrpo.runs.image_grid import captioned_grid
from unigrpo.runs.report import write_report
from unigrpo.runs.report_plots import Curve, Panel, moving_average, plot_panels, reward_panels, validation_panels

LOOKS_AT_PLOTS = (
    "test_a_finished_run_has_its_plots_and_its_table",
    "test_a_stage_shows_losses_held_out_losses_and_what_its_workers_reached",
    "test_a_run_of_several_tasks_shows_each_and_what_was_drawn_before_and_after",
    "test_the_work_of_each_role_is_drawn_and_its_means_stand_in_a_table",
)
"""Tests whose plots are drawn. Together they have every plot."""


@pytest.fixture(autouse=True)
def empty_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces plots by one pixel in the other tests, because matplotlib takes nine tenths of the time of a report."""
    if request.node.originalname not in LOOKS_AT_PLOTS:
        pixel = Image.new("RGB", (1, 1))
        monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: pixel.save(file, format="png"))


@dataclass
class Element:
    """An HTML element."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        """Returns the elements with a tag below this one, in the order of the page."""
        below = [child for child in self.children if isinstance(child, Element)]
        return [one for child in below for one in ([child] if child.tag == tag else []) + child.all(tag)]

    @property
    def text(self) -> str:
        """Returns the text of the element with normalized white space."""
        return " ".join("".join(c if isinstance(c, str) else f" {c.text} " for c in self.children).split())


class Page(HTMLParser):
    """The elements of a report. Every element must be closed, so that text of the model cannot open one."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.root = Element("page", {})
        self._open = [self.root]
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == [self.root], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self._open[-1].children.append(element)
        if tag not in ("meta", "img"):
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)

    def find(self, identity: str) -> Element:
        """Returns the only element with an id."""
        tags = ("p", "table", "pre")
        (found,) = (one for tag in tags for one in self.root.all(tag) if one.attributes.get("id") == identity)
        return found

    def has(self, identity: str) -> bool:
        """Returns whether an element has an id."""
        tags = ("p", "table", "pre")
        return any(one.attributes.get("id") == identity for tag in tags for one in self.root.all(tag))

    def rows(self, table: str) -> list[list[str]]:
        """Returns the texts of the cells of a table without its header."""
        return [[cell.text for cell in row.all("td")] for row in self.find(table).all("tr")[1:]]

    @property
    def headings(self) -> list[str]:
        """Returns the titles of the sections."""
        return [heading.text for heading in self.root.all("h2")]

    @property
    def images(self) -> list[str]:
        """Returns the files of the images of the run, which the page contains, and the sources of other images."""
        sources = [str(image.attributes["src"]) for image in self.root.all("img")]
        assert [source[:80] for source in sources if not source.startswith("data:image/png;base64,")] == []
        return [str(image.attributes.get("data-file") or image.attributes["src"]) for image in self.root.all("img")]


def write_run(folder: Path, *, is_finished: bool = True, completion: str = "5") -> Path:
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
    write_lines(folder / "metrics.jsonl", rows)
    sample = {"step": 1, "kind": "train", "prompt": "2+3", "completion": completion, "label": "5", "reward": 2.0}
    write_lines(folder / "rollouts.jsonl", [sample])
    (folder / "config.yaml").write_text("# commit: abc\nrun_dir: x\n")
    if is_finished:
        write_summary(folder, {"math_answer_greedy": 0.25}, {"math_answer_greedy": 0.75}, steps=3)
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_summary(folder: Path, before: dict[str, float], after: dict[str, float], steps: int = 1) -> None:
    summary = {"steps": steps, "wall_seconds": 10.0 * steps, "eval": {"before": before, "after": after}}
    (folder / "summary.json").write_text(json.dumps(summary))


def change_metrics(folder: Path, change: Any) -> None:
    """Changes every row of the metrics in place."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        change(row)
    write_lines(folder / "metrics.jsonl", rows)


def test_a_finished_run_has_its_plots_and_its_table(tmp_path):
    folder = write_run(tmp_path / "run")
    page = Page(write_report(folder))
    assert page.find("headline").text == "3 steps in 30 s, 10.00 s per step."
    assert page.find("held-out").all("tr")[0].text == "task greedy: before after gain 95% interval prompts"
    assert page.rows("held-out") == [["", "math_answer", "0.250", "0.750", "+0.500", "", ""]]
    assert page.find("config").text == "# commit: abc run_dir: x"
    assert page.images == ["reward_curve.png", "optimization.png", "time.png"]
    for name, image in zip(page.images, page.root.all("img"), strict=True):
        assert Image.open(folder / name).size > (100, 100)
        assert base64.b64decode(str(image.attributes["src"]).partition(",")[2]) == (folder / name).read_bytes()
    html = (folder / "report.html").read_text()
    assert '<meta name="viewport" content="width=device-width' in html
    assert "prefers-color-scheme: dark" in html


def test_a_run_that_died_also_has_a_report(tmp_path):
    page = Page(write_report(write_run(tmp_path / "run", is_finished=False)))
    assert page.find("headline").text == "Not finished: 3 steps so far."
    assert not page.has("held-out")
    assert "reward_curve.png" in page.images


def test_text_of_the_model_cannot_become_html(tmp_path):
    attack = "<think>1</think><script>alert(1)</script>'\"</code></table>"
    page = Page(write_report(write_run(tmp_path / "<b>run", completion=attack)))
    assert page.root.all("script") == page.root.all("b") == []
    assert page.root.all("h1")[0].text == "<b>run"
    assert page.rows("samples") == [["1", "", "2+3", attack, "5", "2.00"]]


@pytest.mark.parametrize(("number", "num_shown"), [(1, 1), (24, 24), (64, 24), (100, 24)])
def test_samples_are_spread_over_the_run_and_over_tasks_that_take_turns(tmp_path, number, num_shown):
    folder = write_run(tmp_path / "run")
    tasks = ("mmu", "t2i", "text")
    write_lines(folder / "rollouts.jsonl", [{"step": i, "kind": "train", "task": tasks[i % 3]} for i in range(number)])
    shown = [(row[0], row[1]) for row in Page(write_report(folder)).rows("samples")]
    assert len(shown) == num_shown
    assert (shown[0][0], shown[-1][0]) == ("0", str(number - 1))
    assert number == 1 or min(sum(task == name for _, task in shown) for name in tasks) >= 5


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no metrics\.jsonl with a step in it; name the folder of a run"):
        write_report(tmp_path)


def test_the_moving_average_by_hand():
    assert moving_average([3.0, 5.0, 1.0, 9.0], window=3) == [3.0, 4.0, 3.0, 5.0]


def drawn(rows: list[dict[str, Any]], panels: Any) -> dict[str, list[list[float]]]:
    """Returns the values of all lines of each panel by its title."""
    figure = Figure()
    plot_panels(figure, rows, panels(rows))
    return {
        axes.get_title().replace("\n", " "): [np.asarray(line.get_ydata()).tolist() for line in axes.lines]
        for axes in figure.axes
        if axes.axison
    }


def test_empty_panels_are_not_shown_and_there_is_one_legend():
    names = ("a", "b", "c", "d", "e")
    rows = [{"step": step} | {f"reward/{n}_mean/text": 0.5 for n in names} for step in (1, 2)]
    curves = (Curve("reward/a_mean/text", "training"), Curve("eval/a", "held out", is_held_out=True))
    figure = Figure(layout="constrained")
    plot_panels(figure, rows, [Panel(f"a long name of the reward {n}", curves) for n in names])
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False] * 3
    assert [axes.get_legend() for axes in figure.axes] == [None] * 8
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["training", "held out"]
    assert all(max(map(len, axes.get_title().splitlines())) <= 22 for axes in figure.axes[:5])


def test_each_reward_has_a_panel_or_with_several_tasks_the_total_of_each(tmp_path):
    metrics = write_run(tmp_path / "run") / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines = drawn(rows, reward_panels)
    assert list(lines) == ["weighted total", "math_answer, unweighted"]
    assert lines["math_answer, unweighted"][0] == pytest.approx([0.05, 0.1, 0.15])
    assert lines["weighted total"][-1] == [0.5]
    for task, value in (("mmu", 1.0), ("t2i", 8.0)):
        rows[1] |= {f"reward/total_mean/{task}": value}
        rows[0] |= {f"eval/reward_total_sampled/{task}": value / 2, f"eval/math_answer_sampled/{task}": 0.5}
    assert drawn(rows, reward_panels) == {
        "mmu: weighted total": [[1.0], [1.0], [0.5]],
        "t2i: weighted total": [[8.0], [8.0], [4.0]],
    }


def test_a_stage_shows_losses_held_out_losses_and_what_its_workers_reached(tmp_path):
    folder = tmp_path / "stage"
    folder.mkdir()
    before = {"validation/t2i_nats_per_token": 6.0, "validation/t2i_nats_per_token_ratio_0.25": 5.0}
    after = {"validation/t2i_nats_per_token": 4.5, "validation/t2i_nats_per_token_ratio_0.25": 5.5}
    step = {
        "loss/total": 3.0, "loss/t2i": 3.0, "grad_norm": 1.0, "learning_rate": 1e-4, "time/step_seconds": 4.0,
        "time/read_seconds": 1.0, "time/update_seconds": 2.0, "perf/denoising_train_step_seconds": 3.0,
        "perf/denoising_idle_seconds": 1.0, "perf/denoising_tflops": 300.0, "perf/denoising_mfu": 0.303,
        "memory/denoising_peak_gb": 70.0,
    }  # fmt: skip
    write_lines(folder / "metrics.jsonl", [{"step": 0, **before}, {"step": 1, **step}, {"step": 2, **step, **after}])
    write_summary(folder, before, after)
    (folder / "reconstructions").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "reconstructions" / "step_00000002.png")
    page = Page(write_report(folder))
    assert page.images == [
        "reconstructions/step_00000002.png",
        "losses.png", "validation.png", "optimization.png", "time.png", "roles.png",
    ]  # fmt: skip
    assert page.rows("workers") == [["denoising", "25%", "300", "30.3%", "70.00"]]
    assert page.rows("held-out") == [
        ["t2i", "nats_per_token", "6.000", "4.500", "-1.500", "", ""],
        ["t2i", "nats_per_token_ratio_0.25", "5.000", "5.500", "+0.500", "", ""],
    ]
    verdicts = [row.all("td")[4].attributes["class"] for row in page.find("held-out").all("tr")[1:]]
    assert verdicts == ["n good", "n bad"], "a lower loss is better"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert drawn(rows, validation_panels) == {"t2i": [[6.0, 4.5], [5.0, 5.5]]}


def test_a_run_of_several_tasks_shows_each_and_what_was_drawn_before_and_after(tmp_path):
    folder = write_run(tmp_path / "run")
    assert "tasks.png" not in Page(write_report(folder)).images

    def two_tasks(row: dict[str, Any]) -> None:
        if row["step"] in (0, 3):
            row |= {"eval/math_answer_sampled/mmu": 0.1, "eval/clip_score_sampled/t2i": 30.0}

    change_metrics(folder, two_tasks)
    (folder / "images").mkdir()
    colours = {0: [255, 0, 0], 1: [0, 255, 0], 3: [0, 0, 255]}
    for step, colour in colours.items():
        drawing = np.full((8, 8, 3), colour, dtype=np.uint8)
        grid = captioned_grid([("a dot", (drawing,)), ("a rather long text that takes two lines", (drawing,))])
        grid.save(folder / "images" / f"step_{step:08d}.png")
    page = Page(write_report(folder))
    assert {"tasks.png", "images.png"} <= set(page.images)
    assert "Generated images, before and after" in page.headings
    assert "row 1: step 0; row 2: step 3" in [text.text for text in page.root.all("p")]
    both = np.asarray(Image.open(folder / "images.png"))
    head = both.shape[0] - 2 * (128 + 4)
    assert (both[:head] != 255).any()
    for row, step in zip((both[head : head + 128], both[head + 132 : head + 260]), (0, 3), strict=True):
        assert (row == colours[step]).all(axis=-1).sum() == 2 * 128 * 128
    assert both.shape[1] == 2 * (128 + 4)


def test_grids_of_several_rows_are_joined_under_one_caption(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "images").mkdir()
    for step, shade in ((0, 10), (3, 30)):
        guided, unguided = (np.full((4, 4, 3), value, dtype=np.uint8) for value in (shade, shade + 5))
        captioned_grid([("a dot", (guided, unguided))]).save(folder / "images" / f"step_{step:08d}.png")
    texts = [text.text for text in Page(write_report(folder)).root.all("p")]
    assert "row 1: step 0; row 2: step 0; row 3: step 3; row 4: step 3" in texts
    joined = np.asarray(Image.open(folder / "images.png"))
    rows = [joined[-132 * i + 60, 60].tolist() for i in (4, 3, 2, 1)]
    assert rows == [[10] * 3, [15] * 3, [30] * 3, [35] * 3]


def test_grids_are_files_by_name_and_step(tmp_path):
    output = RunDirectory(RunConfig(run_dir=str(tmp_path), logger=LoggerConfig(tensorboard=False)), 0)
    red = np.zeros((4, 4, 3), dtype=np.uint8) + np.array([255, 0, 0], dtype=np.uint8)
    output.images(3, {"images": captioned_grid([("red", (red,))])})
    output.close()
    page = np.asarray(Image.open(tmp_path / "images" / "step_00000003.png"))
    assert (page == red[0, 0]).all(axis=-1).sum() == 128 * 128


def test_the_same_prompts_are_answered_before_and_after(tmp_path):
    folder = write_run(tmp_path / "run")
    row = {"kind": "eval", "task": "mmu", "prompt_id": "p:1", "prompt": "how many?", "label": "2"}
    texts = ((0, "one"), (2, "no"), (3, "two"))
    write_lines(
        folder / "rollouts.jsonl", [{**row, "step": s, "completion": f"<b>{text}<|eot_id|>"} for s, text in texts]
    )
    path = write_report(folder)
    page = Page(path)
    assert page.find("answers").all("tr")[0].text == "prompt gold at step 0 at step 3"
    assert page.rows("answers") == [["how many?", "2", "<b>one", "<b>two"]]
    assert not page.has("samples"), "held-out samples are not samples of training"
    marks = ('id="facts"', 'id="answers"', 'id="held-out"', 'data-file="reward_curve.png"')
    order = [path.read_text().index(mark) for mark in marks]
    assert order == sorted(order), "the order is answers before and after, numbers, and curves"


def test_the_answers_alternate_between_all_tasks(tmp_path):
    folder = write_run(tmp_path / "run")
    rows = [
        {"kind": "eval", "task": task, "prompt_id": f"{task}:{i}", "prompt": f"{task} {i}", "label": "", "step": step,
         "completion": "x"}
        for step in (0, 3) for task, number in (("text", 9), ("mmu", 2)) for i in range(number)
    ]  # fmt: skip
    write_lines(folder / "rollouts.jsonl", rows)
    shown = [prompt for prompt, *_ in Page(write_report(folder)).rows("answers")]
    assert shown == ["text 0", "mmu 0", "text 1", "mmu 1", "text 2", "text 3", "text 4", "text 5"]


def held_out_classes(page: Page) -> list[list[str]]:
    """Returns the classes of the cells with a gain, row by row."""
    rows = page.find("held-out").all("tr")[1:]
    classes = [[str(cell.attributes.get("class")) for cell in row.all("td")] for row in rows]
    return [
        [c.removeprefix("n ") for c in one if c.removeprefix("n ") in ("good", "bad", "unclear")] for one in classes
    ]


def test_each_task_has_its_rows_and_a_mean_over_tasks_has_none(tmp_path):
    folder = write_run(tmp_path / "run")
    after = {
        "a_greedy": 0.5, "a_greedy/text": 0.4, "a_greedy/mmu": 0.6, "a_sampled/mmu": 0.2, "reward_total": 1.0,
        "yes_fraction_greedy": 1.0,
    }  # fmt: skip
    write_summary(folder, {**after, "a_greedy/mmu": 0.7, "yes_fraction_greedy": 0.6}, after)
    page = Page(write_report(folder))
    nothing = [""] * 5
    assert page.rows("held-out") == [
        ["text", "a", "0.400", "0.400", "+0.000", "", "", *nothing],
        ["mmu", "a", "0.700", "0.600", "-0.100", "", "", "0.200", "0.200", "+0.000", "", ""],
        ["all", "yes_fraction", "0.600", "1.000", "+0.400", "", "", *nothing],
    ]
    assert {one for row in held_out_classes(page) for one in row} == {"unclear"}, "no interval, no better direction"


def test_a_gain_has_its_prompts_and_interval_and_is_grey_inside_it(tmp_path):
    folder = write_run(tmp_path / "run")
    gains = {
        "clear": [1.0, 0.0, 1.0, 1.0, 1.0],
        "worse": [-1.0, -1.0, -1.0, 0.0, -1.0],
        "unclear": [1.0, -1.0, 1.0, 0, 0],
    }
    rows = [
        {
            "step": step, "task": "text", "prompt_id": f"p:{i}",
            "scores": {f"{name}_greedy": 0.5 + (values[i] if step else 0.0) for name, values in gains.items()},
        }
        for step in (0, 3)
        for i in range(5)
    ]  # fmt: skip
    write_lines(folder / "scores.jsonl", rows)
    before = {f"{name}_greedy": 0.5 for name in gains}
    write_summary(folder, before, {f"{name}_greedy": 0.5 + sum(values) / 5 for name, values in gains.items()})
    page = Page(write_report(folder))
    # By hand, the mean is 0.8, the standard deviation 0.4472, the standard error 0.2, and the quantile for 4 degrees
    # of freedom 2.7764.
    assert page.rows("held-out") == [
        ["", "clear", "0.500", "1.300", "+0.800", "+0.245 to +1.355", "5"],
        ["", "worse", "0.500", "-0.300", "-0.800", "-1.355 to -0.245", "5"],
        ["", "unclear", "0.500", "0.700", "+0.200", "-0.839 to +1.239", "5"],
    ]
    assert held_out_classes(page) == [["good"], ["bad"], ["unclear"]]


def test_the_head_names_model_data_seed_machine_and_duration(tmp_path):
    folder = write_run(tmp_path / "run")
    settings = "actor: {model_name_or_path: m/x, num_gpus_per_node: 2, num_nodes: 1}\ntrain: {seed: 7}\n"
    (folder / "config.yaml").write_text(settings + "data: {prompt_dataset: [{path: a.jsonl}, {path: b.jsonl}]}\n")
    summary = json.loads((folder / "summary.json").read_text()) | {"machine": "2 CPU cores", "wall_seconds": 90.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    page = Page(write_report(folder))
    facts = {row.all("th")[0].text: row.all("td")[0].text for row in page.find("facts").all("tr")}
    assert facts == {
        "model": "m/x", "data": "a.jsonl, b.jsonl", "seed": "7", "machine": "2 CPU cores, 2 policy ranks",
        "duration": "1.5 min",
    }  # fmt: skip


def test_the_work_of_each_role_is_drawn_and_its_means_stand_in_a_table(tmp_path):
    folder = write_run(tmp_path / "run")

    def work(row: dict[str, Any]) -> None:
        if row["step"] > 0:
            row |= {
                "time/step_seconds": 10.0,
                "perf/policy_generate_seconds": 2.0 * row["step"],  # the mean is 4
                "perf/policy_idle_seconds": 5.0,
                "perf/policy_tflops": 400.0,
                "perf/policy_mfu": 0.4044,
                "memory/policy_peak_gb": 61.5,
                "perf/reference_log_likelihood_seconds": 1.0,
                "perf/reference_idle_seconds": 9.0,
                "throughput/tokens_per_second_per_gpu": 1234.0,
            }

    change_metrics(folder, work)
    page = Page(write_report(folder))
    assert page.rows("workers") == [
        ["policy", "50%", "400", "40.4%", "61.50"],
        ["reference", "90%", "", "not known", ""],
    ]
    assert page.find("rates").text == "Each generating worker made 1,234.0 tokens a second."
    assert Image.open(folder / "roles.png").size > (100, 100)


def test_an_image_of_a_prompt_is_in_the_page_and_a_missing_one_is_named(tmp_path):
    folder = write_run(tmp_path / "run")
    Image.new("RGB", (192, 96), "red").save(tmp_path / "red.png")
    lost = str(tmp_path / "<lost>.png")
    row = {"kind": "eval", "task": "mmu", "prompt": "how many?", "label": "2", "completion": "two"}
    rows = [
        {**row, "step": step, "prompt_id": name, "images": [path]}
        for step in (0, 3)
        for name, path in (("p:1", str(tmp_path / "red.png")), ("p:2", lost))
    ]
    write_lines(folder / "rollouts.jsonl", rows)
    page = Page(write_report(folder))
    (data,) = (image.partition(",")[2] for image in page.images if image.startswith("data:"))
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert shown.shape == (48, 96, 3)
    assert (shown == [255, 0, 0]).all()
    assert page.rows("answers")[1][0] == f"{lost} how many?"
