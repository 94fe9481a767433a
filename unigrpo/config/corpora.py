"""Settings of the data of pretraining and Mix-CoT: the sources, how they are mixed, and the form of their rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from unigrpo.config import Fit, PromptTemplate
from unigrpo.config.checks import choice, positive, require
from unigrpo.config.paths import FilePath, InputPath, OutputPath, SourcePaths

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
    """Where the captions are: `inside` (in the tar or the row), `beside` (in separate files), `json` (in one JSON file
    that maps keys to a caption or a list of captions, as in JourneyDB) or `class_name` (the class name of an image
    folder)."""
    member: str = "txt"
    """For tars with `inside`: file extension of the tar member with the caption, or `json.prompt` for the field
    `prompt` of the JSON member."""
    path: FilePath = ""
    """For `beside`: the path of a caption file, in which {shard} stands for the tar's name without its extension and
    {key} for the sample's key, for example `laion_captions/{shard}/{key}.caption`. For `json`: the path of the JSON
    file. For `class_name`: an optional file with lines `index: name` or `folder: name`."""
    first_line_only: bool = False
    """Use only the first line of a caption (needed for SA-1B)."""
    first_sentence_probability: float = 0.0
    """Probability that a `t2i` caption is cut after its first sentence; MMaDA uses 0.5."""
    drop_phrases: tuple[str, ...] = ()
    """Phrases that are deleted from `t2i` captions, such as "The image features "."""
    questions: InputPath = ""
    """For `mmu`: a JSON file with a list of requests for a caption, of which each sample gets a random one. If empty,
    every sample gets the same request."""

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
    """Names of the columns of a table. If a name is empty, the column is found by its usual names."""

    text: str = ""
    """Column of the text. If empty, `text` sources use `content` or `text` for the document; `chat` sources use
    `messages`, `conversations`, `content` or `text` for the messages or for one string with headers; `captions`
    sources use `caption`, `text` or `prompt`."""
    image: str = ""
    """Column of the image: its path, or in parquet also the image itself. If empty, it is `image`."""
    question: str = ""
    """Column of the question of a `vqa` source. If empty, it is `question`, `problem` or `prompt`."""
    answer: str = ""
    """Column of the answer of a `vqa` source. If empty, it is `solution` or `answer`."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    kind: SourceKind = "text"
    """Format of the source: `image_folder`, `webdataset` (tars), or one of these tables (CSV, JSON list, JSONL,
    parquet, Hugging Face data set): `captions` (image, caption), `text`, `chat`, `vqa` (image, question, answer),
    `conversations` (LLaVA's format), `cot` (chain of thought, see unigrpo.data.cot_format)."""
    task: CorpusTask = "lm"
    """Task that the samples train: `t2i` (text to image), `lm` (plain text), `lm_chat` (chat), `mmu` (image
    understanding) or `r2i` (thinking, then text to image). Each kind of source serves some of these tasks."""
    path: SourcePaths = ""
    """Folder or files of the source. Braces and stars are expanded, and commas separate several paths. A table is a
    file that ends in .jsonl, .ndjson, .json, .csv, .tsv, .txt (these also with .gz), .parquet or .arrow, a folder
    written by `save_to_disk`, a downloaded copy of a Hugging Face data set, or the name of one on the Hub.
    `:configuration` may follow the last two."""
    split: str = "train"
    """Split to read, if the source is a folder or a Hugging Face data set."""
    weight: float = 1.0
    """Sampling weight of this source, relative to the weights of the other sources of its modality."""
    image_folder: InputPath = ""
    """Folder to which image paths are relative; if empty, the folder of the table."""
    fit: Fit | Literal[""] = ""
    """How the images of this source become square; if empty, `image.fit` is used. MMaDA stretches documents, charts
    and geometry, of which `crop` would cut off the border, and pads Geo170K."""
    index_folder: OutputPath = ""
    """For `webdataset`: folder in which the positions of the samples in each tar are stored, so that later runs do not
    read all tar headers (a minute for a million samples). `unigrpo index-tars` stores them in parallel before a run.
    With `captions.store json`, the captions are stored there as a table that all processes map into memory. If empty,
    nothing is stored."""
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    """Captions of an image source."""
    columns: ColumnConfig = field(default_factory=ColumnConfig)
    """Column names of a table."""
    instruction: str = ""
    """Text that is put before the first request of a chat, such as the request to think first."""
    max_characters: int = 0
    """For `text`: a longer document is cut to a window of this many characters at a random position (MMaDA uses 8000);
    0 sets no limit."""
    random_turns: bool = False
    """Keep a random number of leading question-answer pairs of a conversation, at least one, as MMaDA does for LLaVA's
    data."""
    cot_newlines: bool = False
    """For `cot`: put each thinking tag on its own line."""
    max_bad_fraction: float = 0.01
    """Largest allowed fraction of unusable samples, which include samples that are too long. A larger fraction is an
    error."""

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
    """Number of text tokens of a row with an image (S in unigrpo.data.layouts)."""
    num_text_tokens: int = 1024
    """Number of tokens of a row without an image."""
    template: PromptTemplate = "chat"
    """Chat template of the rows, with the choices of data.prompt_template."""
    every_turn: bool = False
    """Train on all answers of a chat. If false, train on the last answer only, as MMaDA does."""
    condition_dropout: float = 0.1
    """Probability that a `t2i` row has an empty caption, which classifier-free guidance needs."""
    too_long: TooLong = "skip"
    """What happens to a text with too many tokens: the sample counts as unusable (`skip`), or the text is cut (`cut`).
    Documents of `lm` are always cut. A chat that is cut must keep a part of an answer, or it is unusable."""

    def __post_init__(self) -> None:
        positive("layout.max_text_tokens", self.max_text_tokens)
        positive("layout.num_text_tokens", self.num_text_tokens)
        choice("layout.template", self.template, get_args(PromptTemplate))
        choice("layout.too_long", self.too_long, get_args(TooLong))
        probability = self.condition_dropout
        require(0 <= probability <= 1, f"layout.condition_dropout is {probability}; expected 0 to 1")
