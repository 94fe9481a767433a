"""Object detectors of transformers, with classes given as texts (OWL-ViT, OWLv2) or with fixed ones (DETR)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForObjectDetection,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    DetrImageProcessorPil,
)

from rewards.imaging.devices import choose_device
from rewards.imaging.scene import Box
from rewards.imaging.weights import model_folder

KINDS = ("owlvit", "owlv2", "detr")
"""Architectures of detectors."""
MAX_OBJECTS = 16
"""Largest number of objects of a class, as in GenEval."""
QUERY = "a photo of a {}"
"""Text by which a detector with open classes is asked for a class."""
COCO_NAMES = {"computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard"}
"""Names of GenEval, and those of COCO's classes."""


class Detector:
    """A detector in float32.

    Args:
        model: Folder or Hub name of a detector with its processor.
        device: ``auto``, ``cpu``, ``cuda`` ...
        max_overlap: Largest intersection over union of two objects of a class. Of two objects that overlap more, the
            less confident one is dropped.

    Raises:
        ValueError: There is no such model, or it is no detector.
    """

    def __init__(self, model: str, *, device: str = "auto", max_overlap: float = 0.5) -> None:
        source = model_folder(model)
        self._device, self._max_overlap = choose_device(device), max_overlap
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            if config.model_type == "owlv2" and importlib.util.find_spec("scipy") is None:
                raise ValueError("the image processor of OWLv2 needs scipy; pip install scipy, or use an OWL-ViT")
            if config.model_type not in KINDS:
                raise ValueError(f"it is a {config.model_type!r}; choose one of {list(KINDS)}")
            self._takes_texts = config.model_type in ("owlv2", "owlvit")
            kind = AutoModelForZeroShotObjectDetection if self._takes_texts else AutoModelForObjectDetection
            loaded: Any = kind.from_pretrained(source, dtype=torch.float32)
            self._processor: Any = (AutoProcessor if self._takes_texts else DetrImageProcessorPil).from_pretrained(
                source
            )
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(f"model {model!r} is no object detector that transformers can load: {error}") from error
        self._model = loaded.to(self._device).eval().requires_grad_(False)
        self._classes: set[str] = set() if self._takes_texts else set((config.id2label or {}).values())

    @torch.inference_mode()
    def find(self, image: Image.Image, names: Sequence[str], threshold: float) -> dict[str, list[Box]]:
        """Returns the objects of the named classes, the most confident first.

        Args:
            image: An RGB image.
            names: Classes.
            threshold: Lowest confidence.

        Raises:
            ValueError: The detector has fixed classes, and a name is not among them.
        """
        texts = [QUERY.format(name) for name in names] if self._takes_texts else [self._own_name(n) for n in names]
        given: dict[str, Any] = {"text": [texts], "truncation": True} if self._takes_texts else {}
        inputs = self._processor(images=image, return_tensors="pt", **given).to(self._device)
        outputs = self._model(**inputs)
        size = torch.tensor([[image.height, image.width]])
        if self._takes_texts:
            (found,) = self._processor.post_process_grounded_object_detection(outputs, threshold, target_sizes=size)
            labels = [names[number] for number in found["labels"].tolist()]
        else:
            (found,) = self._processor.post_process_object_detection(outputs, threshold, target_sizes=size)
            by_text = dict(zip(texts, names, strict=True))
            own = (self._model.config.id2label[number] for number in found["labels"].tolist())
            labels = [by_text.get(name, "") for name in own]
        numbers: list[list[float]] = torch.cat([found["boxes"], found["scores"][:, None]], dim=1).tolist()
        boxes = [Box(left, top, right, bottom, score) for left, top, right, bottom, score in numbers]
        return {
            name: kept([box for box, label in zip(boxes, labels, strict=True) if label == name], self._max_overlap)
            for name in names
        }

    def _own_name(self, name: str) -> str:
        own = name if name in self._classes else COCO_NAMES.get(name, name)
        if own not in self._classes:
            raise ValueError(f"the detector has no class {name!r}; it has {sorted(self._classes)[:10]} ...")
        return own


def kept(boxes: Sequence[Box], max_overlap: float) -> list[Box]:
    """Returns the most confident objects of one class, without those that overlap a more confident one too much."""
    chosen: list[Box] = []
    for box in sorted(boxes, key=lambda one: one.score, reverse=True):
        if len(chosen) < MAX_OBJECTS and all(overlap(box, other) <= max_overlap for other in chosen):
            chosen.append(box)
    return chosen


def overlap(a: Box, b: Box) -> float:
    """Returns the intersection over the union of two boxes.

    >>> overlap(Box(0, 0, 2, 2, 1), Box(1, 0, 3, 2, 1)) == 2 / 6
    True
    """
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    common = max(width, 0.0) * max(height, 0.0)
    union = sum((box.right - box.left) * (box.bottom - box.top) for box in (a, b)) - common
    return common / union if union > 0 else 0.0
