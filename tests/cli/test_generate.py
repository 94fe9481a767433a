"""Tests `generate` on a tiny random multimodal checkpoint: all tasks, their files, and errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from unigrpo.cli import generate, generation
from unigrpo.cli.animations import GREY, image_frames, text_frames
from unigrpo.cli.generate_inputs import check_inputs
from unigrpo.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig

TEXT = ["--text.max_new_tokens", "8", "--text.block_length", "4", "--text.num_denoising_steps", "4"]
IMAGE = ["--resolution", "16", "--image.num_denoising_steps", "3"]


@pytest.fixture(scope="module")
def model_folder(tiny_unified_folder: Path) -> Path:
    return tiny_unified_folder


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Returns two image files of different colours and shapes."""
    files = []
    for name, size, colour in (("red.png", (40, 20), "red"), ("blue.jpg", (16, 30), "blue")):
        Image.new("RGB", size, colour).save(tmp_path / name)
        files.append(str(tmp_path / name))
    return files


def run(model: Path, output: Path, task: str, prompts: str, *flags: str) -> list[dict]:
    status = generate.run(
        ["--task", task, "--model", str(model), "--prompts", prompts, "--output", str(output), *TEXT, *IMAGE, *flags]
    )
    assert status == 0
    return [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]


@pytest.fixture
def prompt_file(tmp_path: Path) -> str:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\na very large dog\nx\n")
    return str(file)


# Tests of the written files.


def test_text_is_answered_in_batches(model_folder, tmp_path, prompt_file):
    rows = run(model_folder, tmp_path / "out", "text", prompt_file, "--num_samples", "2", "--batch_size", "4")
    assert [(r["number"], r["prompt"], r["prompt_id"], r["seed"]) for r in rows] == [
        (0, "a cat", "prompts.txt:1", 0),
        (1, "a cat", "prompts.txt:1", 1),
        (2, "a very large dog", "prompts.txt:3", 2),
        (3, "a very large dog", "prompts.txt:3", 3),
        (4, "x", "prompts.txt:4", 4),
        (5, "x", "prompts.txt:4", 5),
    ]
    assert len({r["text"] for r in rows}) == 6
    assert not list((tmp_path / "out").glob("*.png"))
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["text"]["max_new_tokens"] == 8


def test_images_are_generated_and_put_into_a_grid(model_folder, tmp_path, prompt_file):
    rows = run(model_folder, tmp_path / "out", "t2i", prompt_file, "--num_samples", "2", "--batch_size", "4")
    assert [r["image"] for r in rows] == [f"images/0000{i}.png" for i in range(6)]
    images = [Image.open(tmp_path / "out" / r["image"]) for r in rows]
    assert {p.size for p in images} == {(16, 16)}
    assert len({p.tobytes() for p in images}) == 6
    page = Image.open(tmp_path / "out" / "grid.png")
    head = page.height - 2 * 260
    assert (page.width, 0 < head < 40) == (3 * 260, True)
    for number, image in enumerate(images):  # each prompt has a column below its caption
        x, y = number // 2 * 260, head + number % 2 * 260
        large = image.resize((256, 256), Image.Resampling.NEAREST)
        assert page.crop((x, y, x + 256, y + 256)).tobytes() == large.tobytes()
    captions = [page.crop((x, 0, x + 256, head)) for x in (0, 260, 520)]
    assert len({caption.tobytes() for caption in captions}) == 3


def test_answers_depend_on_the_image(model_folder, tmp_path, images):
    rows = run(model_folder, tmp_path / "out", "mmu", "what is it?", "--images", *images)
    assert [r["input_image"] for r in rows] == images
    assert {r["prompt"] for r in rows} == {"what is it?"}
    same_seed = [
        run(model_folder, tmp_path / f"out{i}", "mmu", "what is it?", "--images", image, "--text.temperature", "0")
        for i, image in enumerate(images)
    ]
    assert same_seed[0][0]["text"] != same_seed[1][0]["text"], "the answer does not depend on the image"


def test_paths_of_images_are_relative_to_the_prompt_file(model_folder, tmp_path, images):
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"task": "mmu", "prompt": "what?", "image": "red.png"}) + "\n")
    (row,) = run(model_folder, tmp_path / "out", "mmu", str(file))
    assert row["input_image"] == images[0]


def test_thoughts_come_with_an_image_and_animations_of_both(model_folder, tmp_path):
    (row,) = run(model_folder, tmp_path / "out", "r2i", "draw a cat", "--gif")
    assert row["text"]
    assert Image.open(tmp_path / "out" / row["image"]).size == (16, 16)
    animation = Image.open(tmp_path / "out" / row["image_gif"])
    assert getattr(animation, "n_frames", 1) == 4
    assert animation.convert("RGB").getcolors() == [(256, GREY)], "the first frame is not fully masked"
    assert getattr(Image.open(tmp_path / "out" / row["text_gif"]), "n_frames", 1) > 1


@pytest.mark.parametrize("task", ["text", "t2i", "r2i"])
def test_a_sample_can_be_generated_again_alone_by_its_seed(model_folder, tmp_path, prompt_file, task):
    rows = run(model_folder, tmp_path / "all", task, prompt_file, "--seed", "7", "--batch_size", "3")
    last = rows[2]
    (again,) = run(model_folder, tmp_path / "one", task, last["prompt"], "--seed", str(last["seed"]))
    assert again.get("text") == last.get("text")
    if task != "text":
        first, second = (Image.open(tmp_path / f / r["image"]) for f, r in (("all", last), ("one", again)))
        assert first.tobytes() == second.tobytes()


def test_the_caption_and_its_guidance_matter(model_folder, tmp_path):
    drawn = {}
    for name, caption, scale in (("a", "red", "0"), ("b", "blue", "0"), ("c", "red", "4")):
        run(model_folder, tmp_path / name, "t2i", caption, "--image.guidance_scale", scale)
        drawn[name] = (tmp_path / name / "images" / "00000.png").read_bytes()
    assert len(set(drawn.values())) == 3


def test_a_text_checkpoint_answers_text(tiny_model_folder, tmp_path):
    (row,) = run(tiny_model_folder, tmp_path / "out", "text", "2+3=?")
    assert "text" in row


# Tests of the frames of animations.


def test_the_frames_show_each_code_after_it_is_fixed():
    image = Image.new("RGB", (4, 4), "red")
    frames = image_frames(image, torch.tensor([1, 0, 1, 2]))
    red = [[f.getpixel(xy) == (255, 0, 0) for xy in ((0, 0), (2, 0), (1, 3), (3, 3))] for f in frames]
    assert red == [[False] * 4, [False, True, False, False], [True, True, True, False], [True] * 4]
    assert frames[0].getpixel((0, 0)) == GREY


def test_the_frames_of_a_text_have_one_size_and_all_differ():
    frames = text_frames(["a", "b\n", "c" * 200, "pad"], torch.tensor([1, 0, 2, -1]))
    assert len(frames) == 4
    assert len({f.size for f in frames}) == 1
    assert len({f.tobytes() for f in frames}) == 4


# Tests of errors, which occur before the model is loaded.


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("text", ["--text.num_denoising_steps", "3"], "num_denoising_steps 3 is not a multiple of the 2 blocks"),
        ("text", ["--text.block_length", "16"], "block_length is 16, longer than max_new_tokens 8"),
        ("text", ["--max_text_tokens", "5"], r"prompts: the prompt has \d+ text tokens, more than max_text_tokens 5"),
        ("t2i", ["--max_text_tokens", "3"], r"prompts: the prompt has 5 text tokens, more than max_text_tokens 3"),
        ("r2i", ["--max_text_tokens", "25"], r"the prompt with 9 for its thoughts has \d+ text tokens"),
        ("text", ["--prompts", "none.jsonl"], r"prompts 'none.jsonl': no such file"),
        ("text", ["--prompts", " "], "holds no prompt"),
        ("text", ["--model", "none"], "none: there is no such folder"),
        ("text", ["--device", "fridge"], "device 'fridge' cannot be used"),
        ("text", ["--images", "a.png"], "images are given, but task text reads none"),
        ("text", ["--num_samples", "0"], "num_samples is 0"),
        ("t2i", ["--resolution", "18"], "resolution is 18; it must be a multiple of 4"),
        ("t2i", ["--image.schedule", "square"], "schedule: no 'square'"),
        ("t2i", ["--image_tokenizer", "none"], "none: there is no such folder"),
        ("mmu", [], "prompts: task mmu needs one image, found 0"),
        ("mmu", ["--images", "none.png"], "none.png: no image could be read"),
        ("mmu", ["--images", __file__], r"test_generate.py: no image could be read"),
        ("draw", [], "task"),
        ("text", ["--text.steps", "3"], "text.steps"),
    ],
    ids=str,
)
def test_wrong_input_is_refused_by_name_before_the_model_is_loaded(
    model_folder, tmp_path, monkeypatch, task, flags, message
):
    monkeypatch.setattr(generation, "load_policy", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match=message):
        run(model_folder, tmp_path / "out", task, "cat", *flags)
    assert not (tmp_path / "out").exists()


def test_a_text_checkpoint_and_a_missing_or_foreign_image_tokenizer_are_refused(
    model_folder, tiny_model_folder, tmp_path
):
    def refused(model: Path, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            run(model, tmp_path / "out", "t2i", "cat")

    refused(tiny_model_folder, "a text-only checkpoint")
    bare = tmp_path / "bare"
    shutil.copytree(model_folder, bare, ignore=shutil.ignore_patterns("image_tokenizer"))
    refused(bare, r"bare: no folder image_tokenizer .* --image_tokenizer")
    sizes = {name: [32] for name in ("encoder_channels", "decoder_channels")}
    blocks = {name: [1] for name in ("encoder_blocks", "decoder_blocks")}
    foreign = ImageTokenizer(ImageTokenizerConfig(num_bits=4, stem_channels=32, **sizes, **blocks))
    foreign.save_pretrained(bare / "image_tokenizer")
    refused(bare, "the image tokenizer has 16 codes, the model 32")


def test_samples_are_not_overwritten(model_folder, tmp_path):
    run(model_folder, tmp_path / "out", "text", "cat")
    with pytest.raises(ValueError, match=r"holds samples\.jsonl already \(all\); name another folder"):
        run(model_folder, tmp_path / "out", "text", "cat")


def test_an_interrupted_command_reports_it_and_the_same_command_resumes_with_the_same_samples(
    model_folder, tmp_path, prompt_file, monkeypatch
):
    whole = run(model_folder, tmp_path / "whole", "text", prompt_file)
    calls = []

    def stop(*_: object, **__: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    original = generation._write
    monkeypatch.setattr(generation, "_write", lambda *a: (stop(), original(*a))[1])
    flags = ["--task", "text", "--model", str(model_folder), "--prompts", prompt_file, *TEXT, *IMAGE]
    flags += ["--output", str(tmp_path / "out"), "--batch_size", "2"]
    with pytest.raises(
        KeyboardInterrupt, match="2 of 3 samples are written, and the same command generates the others"
    ):
        generate.run(flags)
    with (tmp_path / "out" / "samples.jsonl").open("a") as lines:
        lines.write('{"number": 2, "cut off')
    with pytest.raises(ValueError, match=r"holds samples\.jsonl already \(other settings: seed\)"):
        generate.run([*flags, "--seed", "9"])
    file = tmp_path / "out" / "samples.jsonl"
    finished = file.read_text()
    for content, message in (
        (finished.replace('"number": 0', '"number": 7', 1), r"samples\.jsonl:1: found sample 7, expected 0"),
        (finished.replace('"seed": 0', '"seed": "0"', 1), r"samples\.jsonl:1: seed is '0', expected an integer"),
        (finished.replace('"prompt": "', '"prompt": "another ', 1), r"already \(of other prompts, such as sample 0\)"),
    ):
        assert content != finished
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            generate.run(flags)
    file.write_text(finished)
    assert run(model_folder, tmp_path / "out", "text", prompt_file) == whole


def test_the_answers_are_printed(model_folder, tmp_path, prompt_file, capsys):
    rows = run(model_folder, tmp_path / "out", "r2i", prompt_file)
    shown = capsys.readouterr().out.splitlines()
    assert shown[:3] == ["a cat", f"  seed 0, text: {rows[0]['text']}", "  seed 0, image: images/00000.png"]
    assert shown[-2:] == [f"samples: {tmp_path}/out/samples.jsonl", f"images:  {tmp_path}/out/grid.png"]


def test_settings_may_be_in_a_file(model_folder, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("text: {max_new_tokens: 8, block_length: 4, num_denoising_steps: 4}\ntask: text\nseed: 3\n")
    flags = ["--config", str(file), "--model", str(model_folder), "--prompts", "cat", "--output", str(tmp_path)]
    config = generate.parse_config([*flags, "--seed", "4"])
    assert (config.task, config.text.block_length, config.seed, config.images) == ("text", 4, 4, ())


# Tests of the layouts of evaluation tools.


def test_the_layout_of_geneval_keeps_the_line_of_each_prompt(model_folder, tmp_path):
    line = {"tag": "counting", "include": [{"class": "bench", "count": 2}], "prompt": "two benches"}
    file = tmp_path / "metadata.jsonl"
    file.write_text(json.dumps(line) + "\n" + json.dumps({**line, "prompt": "a bench"}) + "\n")
    rows = run(model_folder, tmp_path / "out", "t2i", str(file), "--num_samples", "2", "--layout", "geneval")
    folder = tmp_path / "out" / "geneval"
    assert json.loads((folder / "00000" / "metadata.jsonl").read_text()) == line
    images = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert images == [f"0000{i}/samples/0000{j}.png" for i in range(2) for j in range(2)]
    assert (folder / images[2]).read_bytes() == (tmp_path / "out" / rows[2]["image"]).read_bytes()


def test_the_layout_of_dpg_bench_has_four_images_in_one_file_named_by_the_prompt(model_folder, tmp_path):
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "partiprompts12.txt").write_text("a red\nbarn")
    rows = run(model_folder, tmp_path / "out", "t2i", str(prompts), "--num_samples", "4", "--layout", "dpg")
    assert {row["prompt"] for row in rows} == {"a red barn"}
    page = Image.open(tmp_path / "out" / "dpg" / "partiprompts12.png")
    assert page.size == (32, 32)
    for row, corner in zip(rows, ((0, 0), (16, 0), (0, 16), (16, 16)), strict=True):
        x, y = corner
        assert page.crop((x, y, x + 16, y + 16)).tobytes() == Image.open(tmp_path / "out" / row["image"]).tobytes()


def test_the_layout_of_wise_names_an_image_by_its_prompt_id(model_folder, tmp_path):
    file = tmp_path / "wise.json"
    file.write_text(json.dumps([{"Prompt": "the tallest animal", "Category": "nature", "prompt_id": 401}]))
    (row,) = run(model_folder, tmp_path / "out", "t2i", str(file), "--layout", "wise")
    written = tmp_path / "out" / "wise" / "401.png"
    assert written.read_bytes() == (tmp_path / "out" / row["image"]).read_bytes()


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("t2i", ["--layout", "wise"], "layout 'wise' needs a column 'prompt_id'"),
        ("t2i", ["--layout", "wise", "--num_samples", "2"], "takes 1 images per prompt; num_samples is 2"),
        ("text", ["--layout", "geneval"], "layout 'geneval' is for images, but task text generates none"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(model_folder, tmp_path, task, flags, message):
    with pytest.raises(ValueError, match=message):
        run(model_folder, tmp_path / "out", task, "cat", *flags)


def test_one_image_is_used_for_all_prompts_and_other_numbers_must_match(model_folder, tmp_path, prompt_file, images):
    flags = ["--task", "mmu", "--model", str(model_folder), "--prompts", prompt_file, "--output", str(tmp_path / "o")]
    inputs = check_inputs(generate.parse_config([*flags, *IMAGE, "--images", images[0]]))
    assert [p.images for p in inputs.prompts] == [(images[0],)] * 3
    with pytest.raises(ValueError, match="2 images for 3 prompts"):
        check_inputs(generate.parse_config([*flags, *IMAGE, "--images", *images]))


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit):
        generate.run(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("r2i", "--gif", "--images", "--image.guidance_scale", "--text.block_length", "samples.jsonl"):
        assert part in shown


def test_the_tiny_model_of_the_readme_samples_as_it_was_trained_to(tmp_path) -> None:
    root = Path(__file__).parents[2]
    assert "TINY=examples/tiny/mixcot" in (root / "README.md").read_text()
    flags = ["--task", "text", "--prompts", "70+5+4=", "--output", "out"]
    config = generate.parse_config(["--model", str(root / "examples/tiny/mixcot"), *flags])
    assert (config.resolution, config.text.max_new_tokens, config.text.num_denoising_steps) == (64, 20, 10)
    assert (config.image.num_denoising_steps, config.image.guidance_scale) == (8, 2.0)
    file = tmp_path / "generate.yaml"
    file.write_text(f"model: {root / 'examples/tiny/mixcot'}\nimage: {{guidance_scale: 3.0}}\n")
    of_file = generate.parse_config(["--config", str(file), *flags])
    assert of_file.text == config.text
    assert (of_file.image.num_denoising_steps, of_file.image.guidance_scale) == (8, 3.0)
