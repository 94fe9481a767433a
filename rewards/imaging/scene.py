"""The rules of GenEval, which compare the objects that a detector found in an image with those of its prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
POSITION_THRESHOLD = 0.1
"""Fraction of the sizes of two objects that is subtracted from the distance of their centers."""
MIN_COMPONENT = 0.5
"""Smallest component of the direction between two centers that counts as a relation."""


@dataclass(frozen=True)
class Box:
    """One object that a detector found."""

    left: float
    top: float
    right: float
    bottom: float
    """Edges in pixels."""
    score: float
    """Confidence, in 0 to 1."""


Objects = Mapping[str, Sequence[Box]]
"""The objects of each class, the most confident first."""
ColorOf = Callable[[Box, str], str]
"""Returns the color of an object of a class, one of :data:`COLORS`."""


@dataclass(frozen=True)
class Requirement:
    """Objects of one class that an image should show, or should not show."""

    name: str
    """Class of the objects."""
    count: int
    color: str = ""
    """Color of all of them; empty if any will do."""
    relation: str = ""
    """Place of all of them relative to the objects of an earlier requirement; empty if any will do."""
    target: int = 0
    """Number of that requirement."""


@dataclass(frozen=True)
class Scene:
    """What an image should show."""

    include: tuple[Requirement, ...]
    exclude: tuple[Requirement, ...]
    """Classes of which there must be fewer objects than the count."""
    is_counting: bool
    """Whether the prompt asks for a number of objects, for which GenEval requires a higher confidence."""

    @property
    def names(self) -> list[str]:
        """The classes, each once."""
        return list(dict.fromkeys(one.name for one in (*self.include, *self.exclude)))


def read_scene(metadata: Mapping[str, Any]) -> Scene:
    """Returns the scene of a line of GenEval's `evaluation_metadata.jsonl`.

    Raises:
        ValueError: There is no list `include`, or an entry is not as GenEval writes it.
    """
    include = _requirements(metadata.get("include"), "include")
    exclude = _requirements(metadata.get("exclude") or [], "exclude")
    if not include:
        raise ValueError(
            "expected a column `include` as in GenEval's metadata, such as [{'class': 'dog', 'count': 2}]"
        )
    for number, one in enumerate(include):
        if one.relation and not 0 <= one.target < number:
            raise ValueError(f"include[{number}]: position names entry {one.target}, which must be an earlier entry")
    return Scene(tuple(include), tuple(exclude), metadata.get("tag") == "counting")


def _requirements(entries: Any, where: str) -> list[Requirement]:
    if entries is None:
        return []
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ValueError(f"{where}: expected a list of objects with `class` and `count`, found {entries!r:.80}")
    return [_requirement(entry, f"{where}[{number}]") for number, entry in enumerate(entries)]


def _requirement(entry: Any, where: str) -> Requirement:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("class"), str):
        raise ValueError(f"{where}: expected an object with `class`, found {entry!r:.80}")
    count, color, position = entry.get("count"), entry.get("color") or "", entry.get("position")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{where}: count is {count!r}; expected a whole number above 0")
    if color and color not in COLORS:
        raise ValueError(f"{where}: no color {color!r}; choose one of {list(COLORS)}")
    relation, target = position if isinstance(position, Sequence) and len(position) == 2 else ("", 0)
    if position is not None and (relation not in RELATIONS or not isinstance(target, int)):
        raise ValueError(f"{where}: position is {position!r:.60}; expected [one of {list(RELATIONS)}, entry]")
    return Requirement(entry["class"], count, color, relation, target)


def requirements_met(scene: Scene, objects: Objects, color_of: ColorOf) -> list[bool]:
    """Returns for each requirement of a scene whether an image meets it.

    Of the objects of an included class, the `count` most confident ones are judged; more than `count` are no error
    unless an excluded class says so. All of them must have the color, and each must stand in the relation to each
    object of the target. A requirement whose target is not met is not met.

    Args:
        scene: What the image should show.
        objects: Objects that were found, the most confident first.
        color_of: Color of an object.

    Source:
        GenEval, arXiv:2310.11513, section 3, with the thresholds of its `evaluate_images.py`.
    """
    groups: list[Sequence[Box]] = []
    """The objects of each requirement; none if it is not met."""
    for one in scene.include:
        found = objects.get(one.name, ())[: one.count]
        is_met = len(found) == one.count
        is_met = is_met and not (one.color and any(color_of(box, one.name) != one.color for box in found))
        if is_met and one.relation:
            targets = groups[one.target]
            is_met = bool(targets) and all(one.relation in relations(box, other) for box in found for other in targets)
        groups.append(found if is_met else ())
    absent = [len(objects.get(one.name, ())) < one.count for one in scene.exclude]
    return [bool(group) for group in groups] + absent


def relations(a: Box, b: Box) -> set[str]:
    """Returns where object a is, seen from object b: none, one or two of :data:`RELATIONS`.

    The distance of the centers is shortened in each direction by a tenth of the sum of both sizes, and divided by the
    whole distance. A component of more than a half is a relation.

    >>> sorted(relations(Box(0, 0, 10, 10, 1), Box(50, 50, 60, 60, 1)))
    ['above', 'left of']
    """
    offsets = [(a.left + a.right - b.left - b.right) / 2, (a.top + a.bottom - b.top - b.bottom) / 2]
    sizes = [a.right - a.left + b.right - b.left, a.bottom - a.top + b.bottom - b.top]
    shortened = [
        math.copysign(max(abs(offset) - POSITION_THRESHOLD * size, 0.0), offset)
        for offset, size in zip(offsets, sizes, strict=True)
    ]
    if all(abs(one) < 1e-3 for one in shortened):
        return set()
    x, y = (one / math.hypot(*offsets) for one in shortened)
    found = {
        "left of": x < -MIN_COMPONENT, "right of": x > MIN_COMPONENT,
        "above": y < -MIN_COMPONENT, "below": y > MIN_COMPONENT,
    }  # fmt: skip
    return {name for name, is_found in found.items() if is_found}
