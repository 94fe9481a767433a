"""The tiny images of one or two coloured shapes, their captions, and a rule that reads the pixels."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
GROUND = (240, 240, 240)
COLOURS = {"red": (214, 40, 40), "green": (30, 160, 60), "blue": (40, 80, 220), "yellow": (240, 200, 30)}
SHAPES = ("circle", "square", "triangle")
RADII = {"small": 7, "large": 13}
"""Half the side of the square around a shape, in pixels."""
PLACES = {"left": (16, 32), "right": (48, 32), "top": (32, 16), "bottom": (32, 48), "middle": (32, 32)}
"""Position of the middle of a shape, in pixels from the left and from the top."""
PHRASES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "middle": "in the middle",
}
SHIFT, STRETCH, TINT = 2, 1, 12
"""Largest deviation of a position and a radius (pixels), and of a channel of a colour, in an image."""
FINE = 4
"""Pixels of the drawing for one of the image, so that its edges are smooth."""
FEWEST_PIXELS = 40
"""A colour with fewer pixels is noise: the smallest triangle has 72."""
PUREST = 0.96
"""Smallest cosine at which the direction of a pixel from the background is that of a colour."""
CLOSEST = 0.7
"""Smallest overlap (intersection over union) at which pixels are recognized as a shape."""
SEED = 2505
HELD_OUT_RATIO = 0.15
"""Fraction of the scenes on which no model is trained."""
NUM_RL = 288
"""Number of scenes of two things on which UniGRPO trains, and no stage before it."""


@dataclass(frozen=True)
class Thing:
    """A shape in an image. An attribute that is not given or not recognized is empty."""

    size: str
    colour: str
    shape: str
    place: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape} {PHRASES[self.place]}"


Scene = tuple[Thing, ...]


def scenes() -> list[Scene]:
    """Returns all scenes: one thing, or two things of different colours next to each other or one above the other."""
    kinds = [(size, colour, shape) for size in RADII for colour in COLOURS for shape in SHAPES]
    one = [(Thing(*kind, place),) for kind in kinds for place in PLACES]
    two = [
        (Thing(*a, first), Thing(*b, second))
        for first, second in (("left", "right"), ("top", "bottom"))
        for a in kinds
        for b in kinds
        if a[1] != b[1]
    ]
    return one + two


def split(seed: int = SEED) -> tuple[list[Scene], list[Scene]]:
    """Returns scenes to train on and held-out ones. They are disjoint and together all scenes."""
    shuffled = scenes()
    random.Random(seed).shuffle(shuffled)
    num_held_out = round(HELD_OUT_RATIO * len(shuffled))
    return shuffled[num_held_out:], shuffled[:num_held_out]


def stage_split(seed: int = SEED) -> tuple[list[Scene], list[Scene]]:
    """Splits the training scenes of :func:`split` into those of the stages before UniGRPO and :data:`NUM_RL` of
    UniGRPO.

    The image tokenizer and the reward models are trained on both parts.
    """
    training, _ = split(seed)
    rl = [scene for scene in training if len(scene) == 2][:NUM_RL]
    known = set(rl)
    return [scene for scene in training if scene not in known], rl


def caption(scene: Scene) -> str:
    """Returns the caption of an image.

    >>> caption((Thing("small", "red", "circle", "left"), Thing("large", "blue", "square", "right")))
    'a small red circle on the left and a large blue square on the right'
    """
    return " and ".join(map(str, scene))


def neighbours(scene: Scene) -> list[Scene]:
    """Returns all scenes that differ in one attribute of one thing, or in which two things have exchanged their
    positions."""
    places = PLACES if len(scene) == 1 else ()
    changed = [
        (*scene[:i], replace(thing, **{name: value}), *scene[i + 1 :])
        for i, thing in enumerate(scene)
        for name, values in (("size", RADII), ("colour", COLOURS), ("shape", SHAPES), ("place", places))
        for value in values
        if getattr(thing, name) != value and value not in {other.colour for other in scene}
    ]
    if len(scene) == 2:
        first, second = scene
        changed.append((replace(second, place=first.place), replace(first, place=second.place)))
    return changed


def draw(scene: Scene, rng: random.Random | None = None) -> Image.Image:
    """Returns an RGB image of a scene with 64 x 64 pixels, exact or with random deviations of the generator."""
    image = Image.new("RGB", (SIDE * FINE, SIDE * FINE), GROUND)

    def off(most: int) -> int:
        return rng.randint(-most, most) if rng else 0

    for thing in scene:
        x, y = (coordinate + off(SHIFT) for coordinate in PLACES[thing.place])
        radius = RADII[thing.size] + off(STRETCH)
        red, green, blue = (min(255, max(0, channel + off(TINT))) for channel in COLOURS[thing.colour])
        _draw_shape(image, thing.shape, (x, y), radius, (red, green, blue))
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def parse(text: str) -> Scene:
    """Returns the things in a caption. Each needs a colour; other attributes that are not given are empty.

    >>> parse("a red circle")
    (Thing(size='', colour='red', shape='circle', place=''),)

    Raises:
        ValueError: A part of the caption names no colour of this world.
    """
    things: list[Thing] = []
    for part in text.lower().split(" and "):
        words = part.split()
        size, colour, shape, place = (
            next((word for word in words if word in known), "") for known in (RADII, COLOURS, SHAPES, PLACES)
        )
        if not colour:
            raise ValueError(f"{text!r}: {part!r} names no colour; the world has {sorted(COLOURS)}")
        things.append(Thing(size, colour, shape, place))
    return tuple(things)


def find(image: Image.Image) -> Scene:
    """Returns the things that the pixels of an image show, at most one of each colour; unknown things have no colour.

    A pixel at an edge is a mixture of the background and a colour: its direction from the background gives the colour,
    and its distance the fraction.
    """
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    offsets = np.asarray(image.convert("RGB"), dtype=np.float32) - GROUND
    directions = np.array(list(COLOURS.values()), dtype=np.float32) - GROUND
    products = offsets @ directions.T
    lengths = np.linalg.norm(directions, axis=1)
    cosines = products / (np.linalg.norm(offsets, axis=-1, keepdims=True) + 1e-6) / lengths
    nearest = np.where(cosines.max(axis=-1) > PUREST, cosines.argmax(axis=-1), len(COLOURS))
    coverage = np.append(products / lengths**2, np.linalg.norm(offsets, axis=-1, keepdims=True) / lengths.min(), -1)
    covered = np.take_along_axis(coverage, nearest[..., None], axis=-1)[..., 0] > 0.5
    masks = {name: covered & (nearest == i) for i, name in enumerate([*COLOURS, ""])}
    return tuple(_recognise(name, mask) for name, mask in masks.items() if mask.sum() >= FEWEST_PIXELS)


def matches(image: Image.Image, text: str) -> bool:
    """Returns whether an image shows exactly the scene of a caption.

    Raises:
        ValueError: The caption does not describe a scene of shapes.
    """
    wanted, found = parse(text), {thing.colour: thing for thing in find(image)}
    return len({thing.colour for thing in wanted}) == len(found) and all(
        thing.colour in found and _agrees(thing, found[thing.colour]) for thing in wanted
    )


def shape_match(*, prompts: Sequence[str], images: Sequence[Image.Image], labels: Sequence[str | None]) -> list[float]:
    """Returns the reward 1 for an image that fits its label, or its prompt if it has no label, and otherwise 0."""
    wanted = [label or prompt for prompt, label in zip(prompts, labels, strict=True)]
    return [float(matches(image, text)) for text, image in zip(wanted, images, strict=True)]


def _agrees(wanted: Thing, found: Thing) -> bool:
    pairs = ((wanted.size, found.size), (wanted.shape, found.shape), (wanted.place, found.place))
    return all(said in ("", seen) for said, seen in pairs)


def _recognise(colour: str, mask: np.ndarray) -> Thing:
    """Returns the shape whose outline has the largest overlap with the pixels if both centres of mass are equal."""
    ys, xs = np.nonzero(mask)
    x, y = float(xs.mean()), float(ys.mean())
    # The overlap of two areas is at most the ratio of their sizes, so that most outlines need no comparison.
    best, shape, radius = 0.0, "", 0
    for bound, name, r in sorted(_bounds(int(mask.sum())), reverse=True):
        if bound < best:
            break
        best, shape, radius = max((best, shape, radius), _overlap(mask, name, r, (x, y)))
    if best < CLOSEST:
        return Thing("", colour, "", "")
    size = min(RADII, key=lambda name: abs(RADII[name] - radius))
    y -= _outline(shape, radius)[1]
    place = min(PLACES, key=lambda name: (PLACES[name][0] - x) ** 2 + (PLACES[name][1] - y) ** 2)
    return Thing(size, colour, shape, place)


@cache
def _bounds(area: int) -> list[tuple[float, str, int]]:
    """Returns the largest possible overlap of each outline with a shape of so many pixels."""
    sizes = [(int(_outline(name, r)[0].sum()), name, r) for name in SHAPES for r in range(5, 17)]
    return [(min(area, size) / max(area, size), name, r) for size, name, r in sizes]


def _overlap(mask: np.ndarray, shape: str, radius: int, centre: tuple[float, float]) -> tuple[float, str, int]:
    outline, below = _outline(shape, radius)
    shift = (round(centre[1] - SIDE / 2 - below + 0.5), round(centre[0] - SIDE / 2 + 0.5))
    laid = np.roll(outline, shift, axis=(0, 1))
    return float((mask & laid).sum() / (mask | laid).sum()), shape, radius


@cache
def _outline(shape: str, radius: int) -> tuple[np.ndarray, float]:
    """Returns the pixels of a shape in the middle of an image, and the distance of its centre of mass below the
    middle."""
    image = Image.new("L", (SIDE * FINE, SIDE * FINE))
    _draw_shape(image, shape, (SIDE // 2, SIDE // 2), radius, 255)
    mask = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)) > 127
    return mask, float(np.nonzero(mask)[0].mean() + 0.5 - SIDE / 2)


def _draw_shape(
    image: Image.Image, shape: str, centre: tuple[int, int], radius: int, fill: int | tuple[int, int, int]
) -> None:
    left, top = ((coordinate - radius) * FINE for coordinate in centre)
    right, bottom = ((coordinate + radius) * FINE - 1 for coordinate in centre)
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((left, top, right, bottom), fill=fill)
    elif shape == "square":
        pen.rectangle((left, top, right, bottom), fill=fill)
    else:
        pen.polygon(((left, bottom), (right, bottom), ((left + right) // 2, top)), fill=fill)
