"""Questions about the tiny images, descriptions that answer them, and names of things to generate."""

from __future__ import annotations

import random
from dataclasses import dataclass

from shapes import PHRASES, Scene, neighbours

DESCRIBE = "describe the picture"
NAMES = {
    ("small", "red", "circle"): "cherry",
    ("large", "red", "circle"): "tomato",
    ("small", "green", "circle"): "pea",
    ("large", "green", "circle"): "melon",
    ("small", "blue", "circle"): "bead",
    ("large", "blue", "circle"): "globe",
    ("small", "yellow", "circle"): "coin",
    ("large", "yellow", "circle"): "sun",
    ("small", "red", "square"): "stamp",
    ("large", "red", "square"): "brick",
    ("large", "green", "square"): "lawn",
    ("small", "blue", "square"): "tile",
    ("large", "blue", "square"): "pool",
    ("small", "yellow", "square"): "cheese",
    ("large", "yellow", "square"): "sponge",
    ("small", "red", "triangle"): "berry",
    ("large", "red", "triangle"): "roof",
    ("small", "green", "triangle"): "leaf",
    ("large", "green", "triangle"): "fir",
    ("small", "blue", "triangle"): "fin",
    ("large", "blue", "triangle"): "sail",
    ("small", "yellow", "triangle"): "chip",
    ("large", "yellow", "triangle"): "pizza",
}
"""Names of things by size, colour and shape. For example, a tomato is large, red and round."""
ASKED = ("size", "colour", "shape")
"""The attributes that a question asks for."""


@dataclass(frozen=True)
class Question:
    """A question about everything in an image; it can also be asked of an image that was misread."""

    attribute: str
    is_plural: bool

    def __str__(self) -> str:
        if self.attribute == "shape":
            return "what shapes are there?" if self.is_plural else "what shape is there?"
        return f"what {self.attribute} {'are the shapes' if self.is_plural else 'is the shape'}?"


def look(scene: Scene) -> str:
    """Returns a short description of an image.

    >>> from shapes import Thing
    >>> look((Thing("small", "red", "circle", "left"),))
    'small red circle left'
    """
    return ", ".join(f"{thing.size} {thing.colour} {thing.shape} {thing.place}" for thing in scene)


def questions(scene: Scene) -> list[Question]:
    """Returns all questions about an image.

    >>> from shapes import Thing
    >>> [str(question) for question in questions((Thing("small", "red", "circle", "left"),))]
    ['what size is the shape?', 'what colour is the shape?', 'what shape is there?']
    """
    return [Question(attribute, len(scene) > 1) for attribute in ASKED]


def answer(question: Question, scene: Scene) -> str:
    """Returns the answer to a question about an image, in the order of :func:`look`.

    >>> from shapes import Thing
    >>> scene = (Thing("small", "red", "circle", "left"), Thing("large", "blue", "square", "right"))
    >>> answer(Question("colour", True), scene)
    'red and blue'
    """
    return " and ".join(getattr(thing, question.attribute) for thing in scene)


def misread(scene: Scene, question: Question, rng: random.Random) -> Scene:
    """Returns the scene with one wrong attribute, so that the answer is wrong in any order."""
    right = sorted(answer(question, scene).split())
    return rng.choice([s for s in neighbours(scene) if sorted(answer(question, s).split()) != right])


def has_names(scene: Scene) -> bool:
    """Returns whether everything in a scene has a name."""
    return all((thing.size, thing.colour, thing.shape) in NAMES for thing in scene)


def request(scene: Scene) -> str:
    """Returns a request that names the things to draw.

    >>> from shapes import Thing
    >>> request((Thing("small", "red", "circle", "left"),))
    'draw a cherry on the left'
    """
    names = (f"a {NAMES[thing.size, thing.colour, thing.shape]} {PHRASES[thing.place]}" for thing in scene)
    return "draw " + " and ".join(names)


def words() -> list[str]:
    """Returns all words of questions, answers and captions, for a tokenizer with a token for each word."""
    texts = [*PHRASES.values(), *NAMES.values(), *(word for kind in NAMES for word in kind)]
    texts += ["what size colour shape is are the shapes there", "a draw and", DESCRIBE]
    return sorted({word for text in texts for word in [*text.split(), *PHRASES]})
