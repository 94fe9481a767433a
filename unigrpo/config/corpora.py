"""What a stage says about its data: the sources, how they are read and mixed, and the form of their rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from unigrpo.config import Fit, PromptTemplate
from unigrpo.config.checks import choice, positive, require

SourceKind = Literal["image_folder", "webdataset", "captions", "text", "chat", "vqa", "conversations", "cot"]
CorpusTask = Literal["t2i", "lm", "lm_chat", "mmu", "r2i"]
CaptionStore = Literal["inside", "beside", "json", "class_name"]
TASKS_OF: dict[str, tuple[str, ...]] = {
    "image_folder": ("t2i", "mmu"),
    "webdataset": ("t2i", "mmu"),
    "captions": ("t2i", "mmu"),
    "text": ("lm",),
    "chat": ("lm_chat",),
    "vqa": ("mmu",),
    "conversations": ("mmu", "lm_chat"),
    "cot": ("lm_chat", "mmu", "r2i"),
}
"""Tasks that each kind of source can serve."""


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    store: CaptionStore = "inside"
    """Where captions stand: `inside` the tar or the row, `beside` it as files, in one `json` file that maps keys to a
    caption or a list of captions (JourneyDB), or the `class_name` of an image folder."""
    member: str = "txt"
    """`inside` a tar: ending of the caption's member, or `json.prompt` for the field `prompt` of the JSON member."""
    path: str = ""
    """`beside`: the file of a caption, in which {shard} and {key} stand for the tar's name without ending and the
    sample's key, for example `laion_captions/{shard}/{key}.caption`. `json`: the file. `class_name`: optional file of
    lines `index: name` or `folder: name`."""
    first_line_only: bool = False
    """Use the first line of a caption only (SA-1B)."""
    first_sentence_probability: float = 0.0
    """Probability that a `t2i` caption is cut behind its first sentence; MMaDA uses 0.5."""
    drop_phrases: tuple[str, ...] = ()
    """Phrases deleted from `t2i` captions, such as "The image features "."""
    questions: str = ""
    """`mmu`: JSON file with a list of requests for a caption, one of which is drawn; empty asks one and the same."""

    def __post_init__(self) -> None:
        choice("captions.store", self.store, get_args(CaptionStore))
        probability = self.first_sentence_probability
        require(0 <= probability <= 1, f"captions.first_sentence_probability is {probability}; expected 0 to 1")
        needs_path = self.store in ("beside", "json")
        require(not needs_path or bool(self.path), f"captions.store is {self.store}; give captions.path")
        if self.store == "beside":
            require("{key}" in self.path, f"captions.path is {self.path!r}; it must contain {{key}}")


@dataclass(frozen=True, kw_only=True)
class ColumnConfig:
    """Names of columns; empty finds the usual ones."""

    text: str = ""
    """`text`: the document (content, text). `chat`: messages, or one string with headers (messages, conversations,
    content, text). `captions`: the caption (caption, text, prompt)."""
    image: str = ""
    """Path of the image, or the image itself in parquet (image)."""
    question: str = ""
    """`vqa`: (question, problem, prompt)."""
    answer: str = ""
    """`vqa`: (solution, answer)."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    kind: SourceKind = "text"
    """`image_folder`, `webdataset` (tars); tables (CSV, JSON list, JSONL, parquet, Hugging Face data set): `captions`
    (image, caption), `text`, `chat`, `vqa` (image, question, answer), `conversations` (LLaVA), `cot` (see
    unigrpo.data.cot_format)."""
    task: CorpusTask = "lm"
    """What its samples train: see :data:`TASKS_OF`."""
    path: str = ""
    """Folder or files; braces and stars are expanded, several are joined by commas. A table without a known ending is
    a folder written by `save_to_disk` or the name of a Hugging Face data set, `name:configuration`."""
    split: str = "train"
    """Split of a Hugging Face data set."""
    weight: float = 1.0
    """Share of this source among those of its stream, relative to the other weights."""
    image_folder: str = ""
    """Folder that image paths are relative to; empty is the folder of the table."""
    fit: Fit | Literal[""] = ""
    """How its images become square; empty is `image.fit`. MMaDA squashes documents, charts and geometry, of which
    `crop` would lose the border, and pads Geo170K."""
    index_folder: str = ""
    """`webdataset`: folder that remembers where the samples stand in each tar, so that a later start need not read all
    headers (a minute for a million samples); empty remembers nothing."""
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    """Of image sources."""
    columns: ColumnConfig = field(default_factory=ColumnConfig)
    """Of tables."""
    instruction: str = ""
    """Text put before the first request of a chat, such as the request to think first."""
    max_characters: int = 0
    """`text`: longer documents give a window of so many characters at a random place (MMaDA: 8000); 0 is off."""
    random_turns: bool = False
    """Keep a random number of leading question-answer pairs, at least one, as MMaDA does for LLaVA's data."""
    cot_newlines: bool = False
    """`cot`: put each thinking tag on a line of its own."""
    max_bad_fraction: float = 0.01
    """A larger share of samples that cannot be used, too long ones among them, is an error; see CorpusStream."""

    def __post_init__(self) -> None:
        choice("kind", self.kind, get_args(SourceKind))
        choice("task", self.task, get_args(CorpusTask))
        choice("fit", self.fit, ("", *get_args(Fit)))
        tasks = TASKS_OF[self.kind]
        require(self.task in tasks, f"kind {self.kind} has no task {self.task!r}; choose one of {list(tasks)}")
        require(bool(self.path), f"path of a source of kind {self.kind} is empty; name its files")
        positive("weight", self.weight)
        require(self.max_characters >= 0, f"max_characters is {self.max_characters}; use 0 for no limit")
        require(0 <= self.max_bad_fraction < 1, f"max_bad_fraction is {self.max_bad_fraction}; expected 0 to below 1")
        is_folder, store = self.kind == "image_folder", self.captions.store
        require(is_folder or store != "class_name", f"kind {self.kind} has no class names; set captions.store")
        require(not is_folder or store != "inside", "image_folder needs captions.store beside, json or class_name")


TooLong = Literal["skip", "cut"]


@dataclass(frozen=True, kw_only=True)
class LayoutConfig:
    max_text_tokens: int = 512
    """Room for text next to an image, S in unigrpo.data.layouts, tokens."""
    num_text_tokens: int = 1024
    """Length of rows without an image, tokens."""
    template: PromptTemplate = "chat"
    """As data.prompt_template."""
    every_turn: bool = False
    """Train all answers of a chat; False trains the last, as MMaDA does."""
    condition_dropout: float = 0.1
    """Probability of an empty caption in `t2i`, for guidance."""
    too_long: TooLong = "skip"
    """Text longer than its room counts as a broken sample (`skip`), or is cut (`cut`); documents of `lm` are always
    cut. A chat that is cut must keep some of an answer."""

    def __post_init__(self) -> None:
        positive("layout.max_text_tokens", self.max_text_tokens)
        positive("layout.num_text_tokens", self.num_text_tokens)
        choice("layout.template", self.template, get_args(PromptTemplate))
        choice("layout.too_long", self.too_long, get_args(TooLong))
        probability = self.condition_dropout
        require(0 <= probability <= 1, f"layout.condition_dropout is {probability}; expected 0 to 1")
