"""Tests GenEval's rule on boxes that are made by hand, and the reward with random detectors of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessorPil,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessorPil,
    OwlViTProcessor,
    ResNetConfig,
)

from rewards.base import RewardInput
from rewards.geneval import Geneval
from rewards.imaging.detector import Detector, kept, overlap
from rewards.imaging.scene import Box, read_scene, relations, requirements_met
from rewards.loading import load_reward

DOG, CAT = Box(10, 60, 40, 90, 0.9), Box(60, 60, 90, 90, 0.8)
SECOND_DOG = Box(10, 10, 40, 40, 0.5)


def met(metadata: dict[str, Any], objects: dict[str, list[Box]], colors: dict[Box, str] | None = None) -> list[bool]:
    return requirements_met(read_scene(metadata), objects, lambda box, _: (colors or {})[box])


def test_objects_and_numbers_are_counted() -> None:
    one_dog, two_dogs = ({"include": [{"class": "dog", "count": number}]} for number in (1, 2))
    assert met(one_dog, {"dog": [DOG]}) == [True]
    assert met(one_dog, {"cat": [CAT]}) == [False]
    assert met(one_dog, {"dog": [DOG, SECOND_DOG]}) == [True], "more objects are no error by themselves"
    assert met(two_dogs, {"dog": [DOG]}) == [False]
    counting = {"tag": "counting", **two_dogs, "exclude": [{"class": "dog", "count": 3}]}
    assert met(counting, {"dog": [DOG, SECOND_DOG]}) == [True, True]
    assert met(counting, {"dog": [DOG, SECOND_DOG, CAT]}) == [True, False]
    assert read_scene(counting).is_counting and not read_scene(two_dogs).is_counting
    both = {"include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}]}
    assert met(both, {"dog": [DOG]}) == [True, False]


def test_all_judged_objects_have_the_color() -> None:
    red = {"include": [{"class": "dog", "count": 1, "color": "red"}]}
    colors = {DOG: "red", SECOND_DOG: "blue"}
    assert met(red, {"dog": [DOG, SECOND_DOG]}, colors) == [True], "only the most confident one is judged"
    assert met(red, {"dog": [SECOND_DOG, DOG]}, colors) == [False]
    two = {"include": [{"class": "dog", "count": 2, "color": "red"}]}
    assert met(two, {"dog": [DOG, SECOND_DOG]}, colors) == [False]


@pytest.mark.parametrize(
    ("dx", "dy", "expected"),
    [
        (-50, 0, {"left of"}), (50, 0, {"right of"}), (0, -50, {"above"}), (0, 50, {"below"}),
        (50, 50, {"right of", "below"}),
        (50, -20, {"right of"}),   # 20 - 0.1 * 20 = 18, and 18 / 53.9 is less than a half
        (1.9, 0, set()),           # the distance is less than a tenth of both widths
        (4, 0, set()),             # (4 - 2) / 4 is exactly a half
        (4.1, 0, {"right of"}),
        (0, 0, set()),
    ],
)  # fmt: skip
def test_positions_are_those_of_the_published_rule(dx: float, dy: float, expected: set[str]) -> None:
    a, b = Box(100 + dx, 100 + dy, 110 + dx, 110 + dy, 1.0), Box(100, 100, 110, 110, 1.0)
    assert relations(a, b) == expected


def test_a_position_is_relative_to_the_objects_of_an_earlier_entry() -> None:
    metadata = {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}]}
    assert met(metadata, {"cat": [CAT], "dog": [DOG]}) == [True, True]
    assert met(metadata, {"cat": [DOG], "dog": [CAT]}) == [True, False]
    assert met(metadata, {"dog": [DOG]}) == [False, False], "without the target there is no position"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "expected a column `include`"),
        ({"include": "dog"}, "expected a list of objects"),
        ({"include": [{"count": 1}]}, r"include\[0\]: expected an object with `class`"),
        ({"include": [{"class": "dog", "count": 0}]}, "count is 0"),
        ({"include": [{"class": "dog", "count": 1, "color": "teal"}]}, "no color 'teal'"),
        ({"include": [{"class": "dog", "count": 1, "position": ["near", 0]}]}, "position is"),
        ({"include": [{"class": "dog", "count": 1, "position": ["above", 0]}]}, "must be an earlier entry"),
    ],
)
def test_wrong_metadata_is_refused_before_the_run(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Geneval().check_prompt(RewardInput(prompt="a dog", completion="", task="t2i", metadata=metadata))


def test_overlapping_objects_of_a_class_are_one() -> None:
    shifted = Box(12, 60, 42, 90, 0.7)
    assert overlap(DOG, shifted) == pytest.approx(28 * 30 / (2 * 900 - 28 * 30))
    assert kept([shifted, SECOND_DOG, DOG], max_overlap=0.5) == [DOG, SECOND_DOG]
    assert kept([shifted, SECOND_DOG, DOG], max_overlap=1.0) == [DOG, shifted, SECOND_DOG]
    assert len(kept([Box(i, 0, i + 1, 1, 0.5) for i in range(30)], max_overlap=0.5)) == 16


def save_owl(folder: Path, clip_folder: Path, *kinds: Any) -> Path:
    """Writes a random OWL with the tokenizer of the small CLIP."""
    config_class, model, image_processor, processor = kinds
    tokenizer = AutoTokenizer.from_pretrained(clip_folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 48}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model(config_class(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    tokenizer.model_max_length = 48
    processor(image_processor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def owl_folder(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a random OWL-ViT."""
    kinds = OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessorPil, OwlViTProcessor
    return save_owl(tmp_path_factory.mktemp("owl"), clip_folder, *kinds)


@pytest.fixture(scope="module")
def owlv2_folder(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a random OWLv2."""
    kinds = Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessorPil, Owlv2Processor
    return save_owl(tmp_path_factory.mktemp("owlv2"), clip_folder, *kinds)


@pytest.fixture(scope="module")
def detr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a random DETR with three classes of COCO."""
    folder = tmp_path_factory.mktemp("detr")
    unseen: dict[str, Any] = {"out_features": ["stage2"]}  # arguments that are missing in the signatures
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], **unseen)
    unseen = {"use_timm_backbone": False, "backbone": None}
    config = DetrConfig(
        **unseen, backbone_config=backbone, d_model=16, num_queries=5, encoder_layers=1,
        decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
        id2label={0: "dog", 1: "cat", 2: "mouse"}, label2id={"dog": 0, "cat": 1, "mouse": 2},
    )  # fmt: skip
    torch.manual_seed(0)
    DetrForObjectDetection(config).save_pretrained(folder)
    DetrImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["owl", "owlv2", "detr"])
def test_the_objects_are_those_that_the_model_scores(
    kind: str, request: pytest.FixtureRequest, sample: Callable[..., RewardInput]
) -> None:
    folder = request.getfixturevalue(f"{kind}_folder")
    if kind == "owlv2":
        pytest.importorskip("scipy", reason="the image processor of OWLv2 needs scipy")
    image = sample(3, size=(64, 64)).image
    assert image is not None
    detector = Detector(str(folder), device="cpu", max_overlap=1.0)
    found = detector.find(image, ["dog", "computer mouse"], threshold=0.0)
    assert set(found) == {"dog", "computer mouse"} and sum(map(len, found.values())) > 0
    for boxes in found.values():
        assert [box.score for box in boxes] == sorted((box.score for box in boxes), reverse=True)
        assert all(0 < box.score < 1 and box.left <= box.right and box.top <= box.bottom for box in boxes)
    middle = sorted(box.score for boxes in found.values() for box in boxes)[len(found) // 2]
    above = detector.find(image, ["dog", "computer mouse"], threshold=middle)
    assert above == {name: [box for box in boxes if box.score > middle] for name, boxes in found.items()}
    if kind == "detr":
        with pytest.raises(ValueError, match="no class 'zebra'"):
            detector.find(image, ["zebra"], threshold=0.0)


def test_the_reward_reads_the_prompts_of_geneval(
    owl_folder: Path, clip_folder: Path, sample: Callable[..., RewardInput]
) -> None:
    line = '{"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a red dog"}'
    item = sample(1, "a red dog", (64, 64))
    options = {"detector": str(owl_folder), "clip": str(clip_folder), "threshold": 0.0}
    values: list[float | None] = []
    for color in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"):
        metadata = json.loads(line.replace('"red"}', f'"{color}"}}'))
        prompt = RewardInput(prompt=item.prompt, completion="", task="t2i", image=item.image, metadata=metadata)
        reward = load_reward("geneval", options)
        reward.check_prompt(prompt)
        values += reward([prompt])
    assert (values.count(1.0), values.count(0.0)) == (1, 9), "the object has one of the colors"
    strict = load_reward("geneval", {**options, "threshold": 1.0})
    assert strict([prompt]) == [0.0]


def test_a_part_of_the_requirements_may_count(owl_folder: Path, sample: Callable[..., RewardInput]) -> None:
    item = sample(1, size=(64, 64))
    metadata = {"include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 17}]}
    prompt = RewardInput(prompt="?", completion="", task="t2i", image=item.image, metadata=metadata)
    options = {"detector": str(owl_folder), "clip": "", "threshold": 0.0}
    assert load_reward("geneval", options)([prompt]) == [0.0]
    assert load_reward("geneval", {**options, "partial": True})([prompt]) == [0.5], "there are at most 16 objects"


def test_options_that_do_not_fit_are_refused(
    clip_folder: Path, owlv2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs scipy"):
        Detector(str(owlv2_folder))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="threshold is 2"):
        Geneval(threshold=2)
    with pytest.raises(ValueError, match="is no object detector"):
        Geneval(detector=str(clip_folder), clip="").load()
    colored = {"include": [{"class": "dog", "count": 1, "color": "red"}]}
    with pytest.raises(ValueError, match="asks for a color"):
        Geneval(clip="").check_prompt(RewardInput(prompt="?", completion="", task="t2i", metadata=colored))
