"""Captions: their storage, their cleaning, and the requests that they answer in image understanding."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unigrpo import DataError
from unigrpo.config.corpora import CaptionConfig
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.corpora.mapped_captions import MappedCaptions, open_mapped
from unigrpo.data.corpora.sample import Messages
from unigrpo.data.text import checked, decode, parse_json, read_bytes

DEFAULT_QUESTIONS = ("Please describe this image.",)
PERSON_TAG = re.compile(r"<person>(?:[\s,]*(?:and\s+)?<person>)*", re.IGNORECASE)
"""A tag, or several in a row, that replaces a name in some captions."""
PERSON_WORDS = ("a person", "someone", "somebody")
SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
"""End of a sentence: a point that is not part of a number or of an abbreviation without a space after it."""


@dataclass(frozen=True)
class CaptionStore:
    """Captions that are not stored with the images."""

    captions: Mapping[str, object] | MappedCaptions | None
    """Captions by key; None if each is in its own file."""
    files: str
    """Path of a caption's file, with {shard} and {key}."""

    def find(self, shard: str, key: str) -> object:
        """Returns the caption of an image, or a list of captions; None if it has none.

        Raises:
            BadSample: The caption's file is not UTF-8 text.
        """
        if self.captions is not None:
            return self.captions.get(key)
        path = Path(self.files.replace("{shard}", shard).replace("{key}", key)).expanduser()
        return checked(decode(path.read_bytes(), str(path)), str(path)) if path.is_file() else None


def random_item(items: Sequence[Any], generator: torch.Generator) -> Any:
    """Returns one of the items, each with the same probability."""
    return items[int(torch.randint(len(items), (1,), generator=generator))]


def open_store(config: CaptionConfig, index_folder: str = "") -> CaptionStore | None:
    """Returns the store of captions that are not with the images; None for those that are, and for class names.

    Args:
        config: Where the captions are.
        index_folder: Folder for a table of the captions of a JSON file, which processes share; empty keeps the
            captions in the memory of each process.

    Raises:
        ValueError: The file of captions is missing or is not a JSON object.
    """
    if config.store == "json" and index_folder:
        path = Path(config.path).expanduser()
        return CaptionStore(open_mapped(path, index_folder, lambda: _read_json(config.path, dict)), "")
    if config.store == "json":
        return CaptionStore(_read_json(config.path, dict), "")
    if config.store == "beside":
        return CaptionStore(None, config.path)
    return None


def read_questions(path: str) -> Sequence[str]:
    """Returns requests for a caption.

    Raises:
        ValueError: The file is missing or is not a JSON list of texts.
    """
    questions = _read_json(path, list) if path else list(DEFAULT_QUESTIONS)
    if not questions or not all(isinstance(question, str) and question.strip() for question in questions):
        raise DataError(f"{path}: expected a JSON list of texts that are not empty")
    return questions


def clean_caption(caption: object, config: CaptionConfig, task: str, where: str, generator: torch.Generator) -> str:
    """Returns one caption for training.

    Args:
        caption: A text, or a list of texts of which a random one is used.
        config: How captions are cleaned.
        task: Task of the sample; only `t2i` captions are shortened.
        where: File and line for errors.
        generator: Random number generator.

    Raises:
        BadSample: There is no text.
    """
    if isinstance(caption, (list, tuple)) and caption:
        caption = random_item(caption, generator)
    text = caption.strip() if isinstance(caption, str) else ""
    if config.first_line_only:
        text = text.partition("\n")[0]
    text = PERSON_TAG.sub(lambda tag: _person(tag.group(), generator), text)
    if task == "t2i":
        if float(torch.rand(1, generator=generator)) < config.first_sentence_probability:
            text = first_sentence(text)
        for phrase in config.drop_phrases:
            text = text.replace(phrase, "")
    if not text.strip():
        raise BadSample("missing caption", f"{where}: no caption; found {caption!r:.60}")
    return text.strip()


def first_sentence(text: str) -> str:
    """Returns the text up to the first end of a sentence.

    >>> first_sentence("A 3.5 m wall. Behind it a dog.")
    'A 3.5 m wall.'
    """
    end = SENTENCE_END.search(text)
    return text[: end.end()] if end else text


def describe(caption: str, questions: Sequence[str], instruction: str, generator: torch.Generator) -> Messages:
    """Returns a random request, with the caption as its answer."""
    return (("user", instruction + random_item(questions, generator)), ("assistant", caption))


def _person(tags: str, generator: torch.Generator) -> str:
    return "people" if tags.lower().count("<person>") > 1 else random_item(PERSON_WORDS, generator)


def _read_json(path: str, kind: type) -> Any:
    try:
        found = parse_json(read_bytes(Path(path).expanduser()), path)
    except BadSample as error:
        raise DataError(f"no JSON could be read: {error}") from error
    if not isinstance(found, kind):
        raise DataError(f"{path}: expected a JSON {kind.__name__}, found {type(found).__name__}")
    return found
