"""Tests `evaluate`: its table of checkpoints, its samples, and numbers that equal those of training."""

import json
import re
import shutil
from unittest.mock import Mock

import pytest
from PIL import Image

from unigrpo.cli import evaluate, evaluation
from unigrpo.config import EvalConfig, ImageSamplingConfig, RunConfig, TextSamplingConfig
from unigrpo.config.evaluation import PROTOCOLS, EvaluationProtocol
from unigrpo.cost.hardware import KINDS
from unigrpo.models.mmada import MMadaConfig
from unigrpo.records import Prompt
from unigrpo.workers.policy import PolicyWorker

TEXT = ["--rollout.text.max_new_tokens", "8", "--rollout.text.block_length", "4",
        "--rollout.text.num_denoising_steps", "4"]  # fmt: skip


@pytest.fixture
def flags(tmp_path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    rows = [
        {"task": "text", "prompt": "1+1=", "label": "2"},
        {"task": "mmu", "prompt": "sides?", "label": "4", "image": str(tmp_path / "red.png")},
        {"task": "t2i", "prompt": "a red square"},
    ]
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    terms = "[{name: math_answer, tasks: [text, mmu]}, {name: jpeg_size, tasks: [t2i]}]"
    return [
        "--eval.dataset", str(tmp_path / "held_out.jsonl"), "--eval.n_samples_per_prompt", "2",
        "--reward.terms", terms,
        "--image.resolution", "16", "--rollout.image.num_denoising_steps", "3", "--ds.param_dtype", "fp32", *TEXT,
    ]  # fmt: skip


def test_every_checkpoint_gets_a_column_and_every_sample_a_line(tiny_unified_folder, tmp_path, flags, capsys):
    model, output = str(tiny_unified_folder), tmp_path / "out"
    assert evaluate.run(["--models", model, model, "--output", str(output), *flags]) == 0
    record = json.loads((output / "results.json").read_text())
    assert record["prompts"] == 3
    lines = (output / "results.md").read_text().splitlines()
    assert lines[0].count(f"| {'/'.join(tiny_unified_folder.parts[-2:])} ") == 2
    for line in lines[2:]:
        _, name, first, second, _ = (part.strip() for part in line.split("|"))
        assert first == second  # the checkpoint and the random numbers are the same
        assert first == f"{record['models'][model][name]:.3f}"
        assert "/" in name, "there are no means over several tasks"
    assert (output / "results.md").read_text() in capsys.readouterr().out
    samples = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 2 * (3 + 6)
    drawn = [sample for sample in samples if sample["task"] == "t2i"]
    assert all(Image.open(output / sample["image"]).size == (16, 16) for sample in drawn)
    sizes = [sample["rewards"]["jpeg_size"] for sample in drawn[:3] if sample["kind"] == "sampled"]
    assert record["models"][model]["jpeg_size_sampled/t2i"] == pytest.approx(sum(sizes) / 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--eval.dataset", ""], "eval.dataset is empty"),
        (
            ["--reward.terms", "[{name: jpeg_size, tasks: [t2i]}]"],
            r"held_out.jsonl:\d: no reward scores task 'text'",
        ),
        (["--device", "cuda:77"], "device 'cuda:77' cannot be used here"),
    ],
)
def test_wrong_input_is_refused(tiny_unified_folder, tmp_path, flags, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate.run(["--models", str(tiny_unified_folder), "--output", str(tmp_path / "out"), *flags, *changes])


def test_an_interrupted_evaluation_resumes_with_the_same_numbers(tiny_unified_folder, tmp_path, flags, monkeypatch):
    model = str(tiny_unified_folder)
    rows = [{"task": "t2i", "prompt": f"a {colour} square"} for colour in ("red", "green", "blue")]
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "--models", model, *flags, "--reward.terms", "[{name: jpeg_size}]", "--rollout.micro_batch_size", "2",
    ]  # fmt: skip
    assert evaluate.run([*command, "--output", str(tmp_path / "whole")]) == 0
    whole = json.loads((tmp_path / "whole" / "results.json").read_text())["models"][model]
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "whole", broken)
    (broken / "results.json").unlink()
    lines = (broken / "samples.jsonl").read_text().splitlines()
    (broken / "samples.jsonl").write_text("\n".join(lines[:4]) + "\n" + lines[4][:30])
    with pytest.MonkeyPatch.context() as stopped:
        stopped.setattr(PolicyWorker, "generate", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt, match=r"generates the samples that are missing in .*jsonl"):
            evaluate.run([*command, "--output", str(broken)])
    finished = (broken / "samples.jsonl").read_text()
    for content, message in (
        (f"[1]\n{finished}", r"samples\.jsonl:1: found \[1\], expected an object; delete this line"),
        (finished.replace('"prompt": "', '"prompt": "another ', 1), r"sample \d is for the prompt 'another "),
    ):
        (broken / "samples.jsonl").write_text(content)
        with pytest.raises(ValueError, match=message):
            evaluate.run([*command, "--output", str(broken)])
    (broken / "samples.jsonl").write_text(finished)
    asked = []
    generate = PolicyWorker.generate

    def counted(self, requests, *settings):
        asked.extend(requests)
        return generate(self, requests, *settings)

    monkeypatch.setattr(PolicyWorker, "generate", counted)
    assert evaluate.run([*command, "--output", str(broken)]) == 0
    assert len(asked) == len(lines) - 4 == 5
    assert json.loads((broken / "results.json").read_text())["models"][model] == whole
    again = [json.loads(line) for line in (broken / "samples.jsonl").read_text().splitlines()]
    assert sorted(map(str, again)) == sorted(str(json.loads(line)) for line in lines)
    (broken / "results.json").unlink()
    with pytest.raises(ValueError, match=r"holds samples of other settings \(train.seed\)"):
        evaluate.run([*command, "--output", str(broken), "--train.seed", "7"])


@pytest.mark.slow
def test_several_processes_give_the_numbers_of_one(tiny_unified_folder, tmp_path, flags):
    model = str(tiny_unified_folder)
    found = []
    for number in ("1", "2"):
        output = tmp_path / number
        command = ["--models", model, *flags, "--device", "cpu", "--num_processes", number]
        assert evaluate.run([*command, "--output", str(output)]) == 0
        found.append(json.loads((output / "results.json").read_text())["models"][model])
    assert found[0] == found[1]


def test_a_preset_is_recorded_with_its_source(tiny_unified_folder, tmp_path, flags, capsys):
    protocol = EvaluationProtocol(
        source="a page", text=TextSamplingConfig(max_new_tokens=8, num_denoising_steps=2, block_length=4),
        image=ImageSamplingConfig(num_denoising_steps=2), instructions={"text": "Add. "}, response_start="<",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "d1", protocol)
        command = ["--models", str(tiny_unified_folder), *flags, "--eval.preset", "d1", "--data.tasks", "[text]"]
        assert evaluate.run([*command, "--output", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (record["preset"], record["protocol"]) == ("d1", "a page")
    assert "3 samples in 1 process (d1: a page)" in capsys.readouterr().out


@pytest.mark.parametrize(("devices", "hours"), [(["cuda:0"], 8.8), (["cuda:0", "cuda:1"], 4.4)])
def test_the_hours_of_gsm8k_by_the_protocol_of_the_paper_are_printed_first(monkeypatch, capsys, devices, hours):
    """Each of the 1,319 answers of 1024 tokens in 512 steps takes 24 s at an MFU of 40% on an H100."""
    monkeypatch.setattr(evaluation, "gpu_of_this_machine", lambda: KINDS["h100_80gb"])
    monkeypatch.setattr(evaluation, "load_config", lambda name: MMadaConfig())
    config = RunConfig(eval=EvalConfig(dataset="a", preset="mmada_paper", n_samples_per_prompt=0))
    evaluation._announce([config], [Prompt(id="a:1", text="x")] * 1319, devices)
    said = capsys.readouterr().out
    processes = "1 process" if len(devices) == 1 else f"{len(devices)} processes"
    assert f"1319 samples in {processes} (mmada_paper: arXiv:2505.15809v2" in said
    found = float(re.search(r"about ([\d.]+) hours on \d x h100_80gb", said)[1])  # type: ignore[index]
    assert found == pytest.approx(hours, rel=0.15)
