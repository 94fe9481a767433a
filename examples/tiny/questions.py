"""What the tiny world says about its images: questions, the look that answers them, and things to draw by name."""

from __future__ import annotations

import random
from dataclasses import dataclass

from shapes import PHRASES, Scene, Thing, neighbours

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
"""Things of the world by size, colour and shape: to draw a tomato one must know that it is large, red and round."""
BESIDE = {
    ("left", "right"): "left of",
    ("right", "left"): "right of",
    ("top", "bottom"): "above",
    ("bottom", "top"): "below",
}


@dataclass(frozen=True)
class Question:
    """A question about an image; it can also be asked of an image that was misread."""

    kind: str
    subject: str = ""
    """How the thing in question is called: a value of one of its attributes."""
    other: str = ""
    """The second thing of a comparison."""
    relation: str = ""

    def __str__(self) -> str:
        if self.kind == "count":
            return "how many shapes are there?"
        if self.kind == "compare":
            return f"is the {self.subject} {self.relation} the {self.other}?"
        if self.kind == "place":
            return f"where is the {self.subject}?"
        return f"what {self.kind} is the {self.subject}?"


def look(scene: Scene) -> str:
    """An image in few words.

    >>> look((Thing("small", "red", "circle", "left"),))
    'small red circle left'
    """
    return ", ".join(f"{thing.size} {thing.colour} {thing.shape} {thing.place}" for thing in scene)


def questions(scene: Scene) -> list[Question]:
    """All questions that an image answers without doubt."""
    found = [Question("count")]
    for thing in scene:
        for attribute in ("size", "colour", "shape", "place"):
            value = getattr(thing, attribute)
            if sum(getattr(other, attribute) == value for other in scene) > 1:
                continue
            subject = value if attribute == "shape" else f"{value} shape"
            if attribute == "place":
                subject = f"shape {PHRASES[value]}"
            found += [Question(kind, subject) for kind in ("size", "colour", "shape", "place") if kind != attribute]
    if len(scene) == 2:
        for first, second in (scene, scene[::-1]):
            for relation in (BESIDE[first.place, second.place], BESIDE[second.place, first.place]):
                found.append(Question("compare", f"{first.colour} shape", f"{second.colour} shape", relation))
    return found


def answer(question: Question, scene: Scene) -> str:
    """The answer, from what is in the image.

    >>> answer(Question("colour", "circle"), (Thing("small", "red", "circle", "left"),))
    'red'
    """
    if question.kind == "count":
        return str(len(scene))
    if question.kind == "compare":
        first, second = (_called(name, scene) for name in (question.subject, question.other))
        return "yes" if BESIDE[first.place, second.place] == question.relation else "no"
    return getattr(_called(question.subject, scene), question.kind)


def misread(scene: Scene, question: Question, rng: random.Random) -> Scene:
    """The scene with one attribute wrong, so that the answer is wrong; the scene itself where there is none."""
    right = answer(question, scene)
    wrong = [s for s in neighbours(scene) if question in questions(s) and answer(question, s) != right]
    return rng.choice(wrong) if wrong else scene


def has_names(scene: Scene) -> bool:
    """Whether everything in a scene has a name."""
    return all((thing.size, thing.colour, thing.shape) in NAMES for thing in scene)


def request(scene: Scene) -> str:
    """What to draw, by names.

    >>> request((Thing("small", "red", "circle", "left"),))
    'draw a cherry on the left'
    """
    names = (f"a {NAMES[thing.size, thing.colour, thing.shape]} {PHRASES[thing.place]}" for thing in scene)
    return "draw " + " and ".join(names)


def _called(subject: str, scene: Scene) -> Thing:
    words = subject.split()
    return next(thing for thing in scene if {thing.size, thing.colour, thing.shape, thing.place} & set(words))


def words() -> list[str]:
    """All words of the world, for a tokenizer that has a token for each."""
    texts = [*PHRASES.values(), *BESIDE.values(), *NAMES.values(), *(word for kind in NAMES for word in kind)]
    texts += ["how many shapes are there", "is the shape a where what colour size place yes no", "draw and", DESCRIBE]
    return sorted({word for text in texts for word in [*text.split(), *PHRASES]})
