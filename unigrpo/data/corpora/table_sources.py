"""Tables as sources: plain text, chats, questions about images, captions, and thoughts."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from unigrpo import DataError
from unigrpo.config.corpora import SourceConfig
from unigrpo.data.bad_samples import BadSample, shown_columns
from unigrpo.data.corpora.chat_format import leading_turns, read_messages, with_instruction
from unigrpo.data.corpora.sample import CorpusSample, Messages, open_image
from unigrpo.data.corpora.sources import Captioned
from unigrpo.data.cot_format import CotError, convert_row, render
from unigrpo.data.tables import Row, open_table, previewed_rows


class TableSource:
    """The rows of a table as samples."""

    def __init__(self, config: SourceConfig) -> None:
        """Opens the table.

        Raises:
            ValueError: No such file, no rows, or columns are missing.
        """
        self.config = config
        self.table = open_table(config.path, config.split)
        self._folder = Path(config.image_folder).expanduser() if config.image_folder else self.table.folder

    def __len__(self) -> int:
        return len(self.table)

    def read(self, index: int, generator: torch.Generator) -> CorpusSample:
        return self.convert(self.table.row(index), self.table.key(index), generator)

    def convert(self, row: Row, key: str, generator: torch.Generator) -> CorpusSample:
        """Returns the sample of a row."""
        raise NotImplementedError

    def column(self, asked: str, usual: tuple[str, ...]) -> str:
        """Returns the column that was requested, or the first of the usual ones that exists.

        Raises:
            ValueError: None exists.
        """
        try:
            found = {name for row in previewed_rows(self.table) for name in row}
        except BadSample as error:
            raise DataError(str(error)) from error
        for name in (asked,) if asked else usual:
            if name in found:
                return name
        expected = repr(asked) if asked else f"one of {list(usual)}"
        raise DataError(
            f"{self.config.path}: no column {expected} in {self.table.key(0)} and the rows after it; found "
            f"{shown_columns(found)}. Name the column in columns"
        )

    def image(self, row: Row, column: str, key: str) -> Image.Image:
        """Returns the image of a row: a path, or bytes as in parquet.

        Raises:
            BadSample: There is none, or it is broken.
        """
        content = row.get(column)
        if isinstance(content, (list, tuple)) and len(content) == 1:
            content = content[0]
        if isinstance(content, dict):
            content = content.get("bytes") or content.get("path")
        if isinstance(content, bytes) and content:
            return open_image(content, key)
        if isinstance(content, str) and content.strip():
            path = self._folder / content.strip()
            return open_image(path, f"{key}: {path}")
        raise BadSample("missing image", f"{key}: expected one image in {column!r}, found {content!r:.60}")


class TextSource(TableSource):
    """Documents; a long one is replaced by a window at a random position."""

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._text = self.column(config.columns.text, ("content", "text"))

    def convert(self, row: Row, key: str, generator: torch.Generator) -> CorpusSample:
        text = _text(row, self._text, key)
        spare = len(text) - self.config.max_characters
        if self.config.max_characters and spare > 0:
            start = int(torch.randint(spare + 1, (1,), generator=generator))
            text = text[start : start + self.config.max_characters]
        return CorpusSample(key=key, task="lm", text=text)


class ChatSource(TableSource):
    """Chats as messages, or as one text with headers; those of `conversations` have one image each."""

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._turns = self.column(config.columns.text, ("messages", "conversations", "content", "text"))
        self._image = self.column(config.columns.image, ("image",)) if config.task == "mmu" else ""

    def convert(self, row: Row, key: str, generator: torch.Generator) -> CorpusSample:
        messages = read_messages(row.get(self._turns), key)
        if self.config.random_turns:
            num_answers = sum(role == "assistant" for role, _ in messages)
            messages = leading_turns(messages, 1 + int(torch.randint(num_answers, (1,), generator=generator)))
        messages = with_instruction(messages, self.config.instruction)
        image = self.image(row, self._image, key) if self._image else None
        return CorpusSample(key=key, task=self.config.task, messages=messages, image=image)


class VqaSource(TableSource):
    """A question about an image, and its answer."""

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        columns = config.columns
        self._image = self.column(columns.image, ("image",))
        self._question = self.column(columns.question, ("question", "problem", "prompt"))
        self._answer = self.column(columns.answer, ("solution", "answer"))

    def convert(self, row: Row, key: str, generator: torch.Generator) -> CorpusSample:
        question, answer = (_text(row, column, key) for column in (self._question, self._answer))
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        messages = with_instruction(read_messages(turns, key), self.config.instruction)
        return CorpusSample(key=key, task="mmu", messages=messages, image=self.image(row, self._image, key))


class CaptionSource(TableSource):
    """Captioned images."""

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._image = self.column(config.columns.image, ("image",))
        self._caption = self.column(config.columns.text, ("caption", "captions", "text", "prompt"))
        self._captioned = Captioned(config)

    def convert(self, row: Row, key: str, generator: torch.Generator) -> CorpusSample:
        image = self.image(row, self._image, key)
        return self._captioned.sample(key, image, row.get(self._caption), generator)


class CotSource(TableSource):
    """Questions with thoughts and an answer, or requests with thoughts and an image."""

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._image = "" if config.task == "lm_chat" else self.column(config.columns.image, ("image",))

    def convert(self, row: Row, key: str, generator: torch.Generator) -> CorpusSample:
        try:
            found = convert_row(row, needs_answer=self.config.task != "r2i")
        except CotError as error:
            raise BadSample(error.reason, f"{key}: {error}") from error
        answer = render(found.thinking, found.answer, newlines=self.config.cot_newlines)
        turns = [{"role": "user", "content": found.question}, {"role": "assistant", "content": answer}]
        messages: Messages = with_instruction(read_messages(turns, key), self.config.instruction)
        image = self.image(row, self._image, key) if self._image else None
        return CorpusSample(key=key, task=self.config.task, messages=messages, image=image)


def _text(row: Row, column: str, key: str) -> str:
    value = row.get(column)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadSample("missing text", f"{key}: expected a text in {column!r}, found {value!r:.60}")
    return value.strip()
