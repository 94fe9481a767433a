"""Reward for images with the objects, numbers, colors and positions of their prompts, by GenEval's rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from rewards.base import Reward, RewardInput
from rewards.imaging.batches import check_image_prompt, generated_image
from rewards.imaging.clip import ClipEncoder
from rewards.imaging.detector import Detector
from rewards.imaging.scene import COLORS, Box, read_scene, requirements_met
from rewards.imaging.weights import model_folder

COLOR_QUERIES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
"""Texts whose mean embedding represents a color, as in GenEval."""


class Geneval(Reward):
    """1 if an image meets all requirements of its prompt, else 0.

    The prompts are lines of GenEval's `evaluation_metadata.jsonl`, with the columns `include`, `exclude` and `tag`. A
    detector of transformers replaces GenEval's Mask2Former, so the values cannot be compared with published ones. It
    finds boxes instead of outlines, and the color is that of the whole box.

    Args:
        detector: Folder or Hub name of an OWL-ViT, or of an OWLv2 (`google/owlv2-base-patch16-ensemble`, which needs
            scipy), which take any classes; or of a detector with COCO's classes, such as DETR.
        clip: Folder or Hub name of the ``CLIPModel`` that recognizes colors. If empty, none is loaded, and prompts
            with colors are errors.
        threshold: Lowest confidence of an object. GenEval's value for its detector is 0.3; the confidences of OWL-ViT
            are lower. Choose it with `unigrpo try-reward` on some images.
        counting_threshold: Lowest confidence for prompts with the tag `counting`; GenEval's value for its detector is
            0.9.
        max_overlap: Largest intersection over union of two objects of a class.
        partial: Whether the reward is the fraction of the requirements that are met.
        device: ``auto``, ``cpu``, ``cuda`` ...

    Source:
        GenEval, arXiv:2310.11513, section 3.
    """

    name = "geneval"
    range = (0.0, 1.0)
    unit = "1 if all requirements are met"
    is_costly = True
    hub_options: ClassVar = {"detector": model_folder, "clip": model_folder}

    def __init__(
        self,
        detector: str = "google/owlvit-base-patch32",
        clip: str = "openai/clip-vit-large-patch14",
        threshold: float = 0.2,
        counting_threshold: float = 0.2,
        max_overlap: float = 0.5,
        partial: bool = False,
        device: str = "auto",
    ) -> None:
        for name, value in (
            ("threshold", threshold),
            ("counting_threshold", counting_threshold),
            ("max_overlap", max_overlap),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"geneval: {name} is {value}; it must be in 0 to 1")
        self._detector_name, self._clip_name, self._device = detector, clip, device
        self._threshold, self._counting_threshold, self._max_overlap = threshold, counting_threshold, max_overlap
        self._partial = partial
        self._colors: dict[str, Tensor] = {}

    def load(self) -> None:
        _ = self._detector
        if self._clip_name:
            _ = self._clip

    @cached_property
    def _detector(self) -> Detector:
        return Detector(self._detector_name, device=self._device, max_overlap=self._max_overlap)

    @cached_property
    def _clip(self) -> ClipEncoder:
        return ClipEncoder(self._clip_name, device=self._device)

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [self._value(generated_image(item, number), item) for number, item in enumerate(inputs)]

    def check_prompt(self, prompt: RewardInput) -> None:
        check_image_prompt(prompt)
        scene = read_scene(prompt.metadata)
        if not self._clip_name and any(one.color for one in scene.include):
            raise ValueError("the prompt asks for a color, and the option `clip` is empty")

    def _value(self, image: Image.Image, item: RewardInput) -> float:
        scene = read_scene(item.metadata)
        threshold = self._counting_threshold if scene.is_counting else self._threshold
        objects = self._detector.find(image, scene.names, threshold)
        met = requirements_met(scene, objects, lambda box, name: self._color(image, box, name))
        return sum(met) / len(met) if self._partial else float(all(met))

    def _color(self, image: Image.Image, box: Box, name: str) -> str:
        """Returns the color whose texts are closest to the part of the image in a box."""
        if name not in self._colors:
            self._colors[name] = torch.stack([self._color_vector(color, name) for color in COLORS])
        left, top = (max(math.floor(edge), 0) for edge in (box.left, box.top))
        right, bottom = max(math.ceil(box.right), left + 1), max(math.ceil(box.bottom), top + 1)
        part = image.crop((left, top, min(right, image.width), min(bottom, image.height)))
        return COLORS[int((self._colors[name] @ self._clip.encode_images([part])[0]).argmax())]

    def _color_vector(self, color: str, name: str) -> Tensor:
        mean = self._clip.encode_texts([text.format(color=color, name=name) for text in COLOR_QUERIES]).mean(dim=0)
        return mean / mean.norm()
