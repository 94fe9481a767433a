"""Tests the questions, names and words of the tiny data, its image tokenizer and its stages."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoTokenizer

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "examples" / "tiny"


@pytest.fixture(scope="module")
def tiny() -> ModuleType:
    """Returns the modules of examples/tiny, imported as they import each other."""
    sys.path.insert(0, str(TINY))
    try:
        import arithmetic  # noqa: PLC0415
        import make_image_tokenizer  # noqa: PLC0415
        import make_world  # noqa: PLC0415
        import prompt_images  # noqa: PLC0415
        import questions  # noqa: PLC0415
        import shapes  # noqa: PLC0415
        import stage_table  # noqa: PLC0415
    finally:
        sys.path.remove(str(TINY))
    module = ModuleType("tiny")
    module.__dict__.update(
        arithmetic=arithmetic,
        questions=questions,
        shapes=shapes,
        world=make_world,
        images=prompt_images,
        tokenizer=make_image_tokenizer,
        table=stage_table,
    )
    return module


def test_answers_agree_with_the_scene(tiny):
    q, Thing = tiny.questions, tiny.shapes.Thing
    one, two = Thing("small", "red", "circle", "top"), Thing("large", "blue", "circle", "bottom")
    assert {str(question): q.answer(question, (one, two)) for question in q.questions((one, two))} == {
        "what size are the shapes?": "small and large",
        "what colour are the shapes?": "red and blue",
        "what shapes are there?": "circle and circle",
    }
    assert {str(question): q.answer(question, (one,)) for question in q.questions((one,))} == {
        "what size is the shape?": "small",
        "what colour is the shape?": "red",
        "what shape is there?": "circle",
    }


def test_every_question_about_every_scene_has_an_answer_in_the_vocabulary(tiny):
    known = set(tiny.questions.words())
    for scene in tiny.shapes.scenes():
        for question in tiny.questions.questions(scene):
            assert {*str(question).rstrip("?").split(), *tiny.questions.answer(question, scene).split()} <= known


def test_a_misread_image_gives_another_answer_whatever_the_order(tiny):
    q, rng = tiny.questions, random.Random(0)
    for scene in tiny.shapes.scenes()[::37]:
        for question in q.questions(scene):
            seen = q.misread(scene, question, rng)
            assert sorted(q.answer(question, seen).split()) != sorted(q.answer(question, scene).split())
            assert seen in tiny.shapes.neighbours(scene)


def test_the_data_of_the_stages_shows_no_scene_of_unigrpo_or_of_the_evaluation(tiny, tmp_path):
    world = tiny.world.World(tmp_path, seed=0)
    stages, _ = tiny.shapes.stage_split()
    assert {world.near(scene) for scene in stages * 20} <= set(stages)


def test_words_are_single_tokens_and_every_text_is_decoded_exactly(tiny, tmp_path):
    from_words = tiny.questions.words()
    sys.path.insert(0, str(TINY))
    try:
        from character_tokenizer import save_word_tokenizer  # noqa: PLC0415
    finally:
        sys.path.remove(str(TINY))
    save_word_tokenizer(tmp_path, from_words)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for scene in tiny.shapes.scenes()[::29]:
        text = tiny.shapes.caption(scene)
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert len(ids) == len(text.split())
        assert tokenizer.decode(ids) == text
        for question in tiny.questions.questions(scene):
            ids = tokenizer.encode(str(question), add_special_tokens=False)
            assert len(ids) == len(str(question).split()) + 1, "one for each word and one for the question mark"
    strange = "Zoë: 3+4=7?\n"
    assert tokenizer.decode(tokenizer.encode(strange, add_special_tokens=False)) == strange


def test_the_entropy_term_is_that_of_the_softmax_over_all_codes(tiny):
    latents = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    codebook = torch.tensor([[1.0 if code >> bit & 1 else -1.0 for bit in (2, 1, 0)] for code in range(8)]).double()
    places = latents.permute(0, 2, 3, 1).reshape(-1, 3)
    distances = ((places[:, None] - codebook) ** 2).sum(-1)
    probabilities = torch.softmax(-distances, dim=1)  # -(z - 1)^2 + (z + 1)^2 = 4 z, the factor in the sigmoid
    own = -(probabilities * probabilities.log()).sum(1).mean()
    together = probabilities.mean(0)
    expected = own + tiny.tokenizer.BATCH_ENTROPY_FACTOR * (together * together.log()).sum()
    assert math.isclose(tiny.tokenizer.entropy_term(latents).item(), expected.item(), rel_tol=1e-5)


def test_prompts_are_unseen_and_disjoint_and_equal_to_those_that_the_command_writes(tiny, tmp_path):
    tiny.world.write_prompts(tmp_path, 0)
    parts: dict[str, list[dict[str, str]]] = {}
    for name in ("train", "test", "validation"):
        text = (tmp_path / f"{name}.jsonl").read_text()
        assert text == (TINY / "world" / f"{name}.jsonl").read_text()
        parts[name] = list(map(json.loads, text.splitlines()))
    seen = {tiny.arithmetic.question(terms) for terms in tiny.arithmetic.stage_split()[0]}
    seen |= {tiny.shapes.caption(scene) for scene in tiny.shapes.stage_split()[0]}
    asked = {
        part: [(row["prompt"], row["label"], row.get("image", "").partition("/")[2]) for row in rows]
        for part, rows in parts.items()
    }
    for part in ("train", "test"):
        assert len(set(asked[part])) == len(asked[part]), "a prompt is repeated"
        assert seen.isdisjoint({row["label"] if row["task"] == "t2i" else row["prompt"] for row in parts[part]})
    without_images = [{one for one in asked[part] if not one[2]} for part in ("train", "test")]
    assert without_images[0].isdisjoint(without_images[1])


def test_no_scene_is_in_two_of_the_three_parts(tiny):
    seen, rl = map(set, tiny.shapes.stage_split())
    training, held_out = map(set, tiny.shapes.split())
    assert len(seen) + len(rl) == len(seen | rl) == len(training)
    assert seen | rl == training
    assert training.isdisjoint(held_out)
    assert len(rl) == tiny.shapes.NUM_RL


def test_no_sum_is_in_two_of_the_three_parts(tiny):
    parts = tiny.arithmetic.stage_split()
    assert [len(part) for part in parts] == [1500, 72 * 81 - 1700, 200]
    everything = {terms for part in parts for terms in part}
    assert everything == {(a, b, c) for a in range(10, 82) for b in range(1, 10) for c in range(1, 10)}
    assert {len(str(total)) for a, *others in everything for total in (a, a + others[0], a + sum(others))} == {2}


def test_every_answer_about_an_image_is_that_of_its_scene(tiny):
    scenes = tiny.shapes.stage_split()[1]
    rows = map(json.loads, (TINY / "world" / "train.jsonl").read_text().splitlines())
    for row in rows:
        if row["task"] != "mmu":
            continue
        scene = scenes[int(Path(row["image"]).stem)]
        answers = {str(q): tiny.questions.answer(q, scene) for q in tiny.questions.questions(scene)}
        assert answers[row["prompt"]] == row["label"]


def test_missing_and_stale_images_are_written_again_and_others_are_refused(tiny, tmp_path, monkeypatch):
    for file in (TINY / "world").glob("*.jsonl"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(tiny.images, "FOLDER", tmp_path)
    tiny.images.main()
    assert tiny.images.checksum(tmp_path) == tiny.images.PIXELS
    file = tmp_path / "train" / "000.png"
    written = file.stat().st_mtime_ns
    tiny.images.main()
    assert file.stat().st_mtime_ns == written, "a second call finds all images"
    (tmp_path / "test" / "000.png").write_bytes(file.read_bytes())
    tiny.images.main()
    assert tiny.images.checksum(tmp_path) == tiny.images.PIXELS, "the image of another scene was replaced"
    file.write_bytes(b"no image")
    tiny.images.main()
    assert tiny.images.checksum(tmp_path) == tiny.images.PIXELS, "a broken file was replaced"
    file.unlink()
    monkeypatch.setattr(tiny.images, "PIXELS", "0" * 64)
    with pytest.raises(SystemExit, match="draws other images than the prompts describe"):
        tiny.images.main()
    assert not file.exists()


def test_the_table_has_a_row_for_each_stage(tiny):
    metrics = {name.format(kind): 0.25 for name in tiny.table.COLUMNS.values() for kind in ("sampled", "greedy")}
    text = tiny.table.table({"runs/a/start": metrics, "runs/a/stage1_1/policy": metrics})
    assert text.splitlines()[2:] == [
        f"| {name} | " + " | ".join(["0.25 (0.25)"] * 4) + " |" for name in ("start", "stage1_1")
    ]
