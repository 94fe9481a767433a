"""The evaluation command: a table over checkpoints, every sample kept, the same numbers as in training."""

import json

import pytest
from PIL import Image

from unigrpo.cli import evaluate

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
        assert first == second  # the same checkpoint, the same random numbers
        assert first == f"{record['models'][model][name]:.3f}"
        assert "/" in name, "with several tasks each stands for itself"
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
