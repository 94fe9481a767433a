"""Tests the tiny images, the rule that judges them, and the documented accuracy of the tiny reward models."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from rewards.base import RewardInput
from rewards.loading import load_reward

TINY = Path(__file__).parent.parent.parent / "examples" / "tiny"
REWARDS = {"clip_score": "clip", "image_reward": "image_reward"}


@pytest.fixture(scope="module")
def shapes() -> ModuleType:
    """Returns the module of the shapes, imported as the scripts of examples/tiny import each other."""
    sys.path.insert(0, str(TINY))
    try:
        import shapes  # noqa: PLC0415
    finally:
        sys.path.remove(str(TINY))
    return shapes


def test_each_scene_has_its_own_caption_and_can_be_read_from_it(shapes: ModuleType) -> None:
    scenes = shapes.scenes()
    captions = [shapes.caption(scene) for scene in scenes]
    kinds = 2 * 4 * 3  # two sizes, four colours and three shapes
    assert len(set(captions)) == len(scenes) == 5 * kinds + 2 * kinds * (kinds - 6)
    assert [shapes.parse(text) for text in captions] == scenes


def test_train_and_held_out_scenes_are_disjoint_and_include_all_scenes(shapes: ModuleType) -> None:
    train, held_out = shapes.split()
    assert not set(train) & set(held_out) and len(held_out) >= 140
    assert set(train) | set(held_out) == set(shapes.scenes())


def test_the_same_seed_draws_the_same_image(shapes: ModuleType) -> None:
    scene = shapes.scenes()[300]
    one, same, other = (shapes.draw(scene, random.Random(seed)).tobytes() for seed in (1, 1, 2))
    assert one == same != other


def test_the_rule_accepts_every_right_image_and_no_wrong_one(shapes: ModuleType) -> None:
    rng = random.Random(0)
    for scene in shapes.scenes()[::3]:
        image = shapes.draw(scene, rng)
        assert image.mode == "RGB" and image.size == (64, 64)
        assert shapes.matches(image, shapes.caption(scene)), scene
        wrong = rng.choice(shapes.neighbours(scene))
        assert not shapes.matches(image, shapes.caption(wrong)), (scene, wrong)


def test_a_neighbour_is_a_scene_that_differs_in_one_attribute(shapes: ModuleType) -> None:
    scene = shapes.parse("a small red circle on the left and a large blue square on the right")
    neighbours = shapes.neighbours(scene)
    # Each shape has 1 other size, 2 free colours and 2 other shapes, and the two shapes can be exchanged.
    assert len(set(neighbours)) == len(neighbours) == 2 * (1 + 2 + 2) + 1
    assert set(neighbours) <= set(shapes.scenes()) - {scene}
    assert tuple(reversed([str(thing).split(" on ")[0] for thing in neighbours[-1]])) == (
        "a small red circle",
        "a large blue square",
    )


def test_the_rule_reads_images_like_those_of_a_model(shapes: ModuleType) -> None:
    rng, noise = random.Random(0), np.random.default_rng(0)
    scenes = shapes.scenes()[::12]
    right = 0
    for scene in scenes:
        blurred = shapes.draw(scene, rng).filter(ImageFilter.GaussianBlur(0.8)).resize((128, 128))
        array = np.asarray(blurred, dtype=np.float64) + noise.normal(0, 8, (128, 128, 3))
        image = Image.fromarray(array.clip(0, 255).astype(np.uint8))
        right += shapes.matches(image, shapes.caption(scene))
    assert right / len(scenes) > 0.95


@pytest.mark.parametrize("colour", [(0, 0, 0), (150, 30, 180), (128, 128, 128)])
def test_the_rule_rejects_other_images(shapes: ModuleType, colour: tuple[int, int, int]) -> None:
    image = shapes.draw(shapes.parse("a small red circle on the left"), random.Random(0))
    assert shapes.matches(image, "a red circle") and not shapes.matches(image, "a red circle and a blue circle")
    image.paste(colour, (40, 40, 56, 56))
    assert not shapes.matches(image, "a red circle")


def test_empty_and_meaningless_images_match_nothing(shapes: ModuleType) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for image in (
        Image.new("RGB", (64, 64), shapes.GROUND),
        Image.fromarray(noise),
        Image.new("RGB", (64, 64), "red"),
    ):
        assert not any(shapes.matches(image, shapes.caption(scene)) for scene in shapes.scenes()[::10])


def test_a_caption_of_another_form_is_refused(shapes: ModuleType) -> None:
    with pytest.raises(ValueError, match="'a purple dog' names no colour"):
        shapes.parse("a red circle and a purple dog")


def test_the_rule_can_be_used_as_a_reward(shapes: ModuleType) -> None:
    image = shapes.draw(shapes.parse("a large green square at the top"), random.Random(0))
    inputs = [
        RewardInput(prompt=text, completion="", task="t2i", image=image)
        for text in ("a green square", "a green circle")
    ]
    assert load_reward(f"{TINY / 'shapes.py'}:shape_match", {})(inputs) == [1.0, 0.0]


@pytest.fixture(scope="module")
def pairs(shapes: ModuleType) -> list[tuple[RewardInput, RewardInput, RewardInput]]:
    """Returns, for each held-out prompt, its image, one with one wrong attribute, and one of another scene."""
    rng = random.Random("images of the test")
    triples: list[tuple[RewardInput, RewardInput, RewardInput]] = []
    for scene in shapes.split()[1][:100]:
        near, far = rng.choice(shapes.neighbours(scene)), rng.choice([s for s in shapes.scenes() if s != scene])
        right, wrong, other = (
            RewardInput(prompt=shapes.caption(scene), completion="", task="t2i", image=shapes.draw(shown, rng))
            for shown in (scene, near, far)
        )
        triples.append((right, wrong, other))
    return triples


@pytest.mark.parametrize(("reward", "folder"), REWARDS.items())
def test_the_shipped_models_rank_right_above_wrong(
    reward: str, folder: str, pairs: list[tuple[RewardInput, RewardInput, RewardInput]]
) -> None:
    options: dict[str, Any] = {"model": str(TINY / folder), "device": "cpu"}
    if reward == "clip_score":
        options["scale"] = "cosine"
    values = load_reward(reward, options)([item for triple in pairs for item in triple])
    right, wrong, other = (np.array(values[start::3], dtype=float) for start in range(3))
    assert (right > wrong).mean() > 0.9 and (right > other).mean() > 0.95


@pytest.mark.parametrize("folder", REWARDS.values())
def test_the_documented_accuracy_of_the_reward_models_is_right(folder: str) -> None:
    record = json.loads((TINY / folder / "training.json").read_text())
    assert record["held_out"]["one_attribute_wrong"] > 0.9 and record["held_out"]["another_scene"] > 0.95
    assert sum(file.stat().st_size for file in (TINY / folder).iterdir()) < 2e6
