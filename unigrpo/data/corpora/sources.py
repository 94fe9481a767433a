"""Sources of samples by number: folders and tars of captioned images, and tables."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from PIL import Image

from unigrpo import DataError
from unigrpo.config.corpora import SourceConfig
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.corpora.captions import clean_caption, describe, open_store, read_questions
from unigrpo.data.corpora.sample import CorpusSample, open_image
from unigrpo.data.corpora.tars import TarSample, TarSamples
from unigrpo.data.files import expand_paths
from unigrpo.data.text import checked, decode, parse_object, read_text

logger = logging.getLogger(__name__)
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "avif", "jp2", "jfif", "ppm")

APART = "the members of a sample must be neighbours in the tar (tar --sort=name)"


@runtime_checkable
class Source(Protocol):
    """Samples that are read by number."""

    def __len__(self) -> int: ...

    def read(self, index: int, generator: torch.Generator) -> CorpusSample:
        """Returns one sample.

        Args:
            index: Number of the sample.
            generator: Random number generator for everything random in a sample, such as the choice of its caption.

        Raises:
            BadSample: It cannot be used.
        """
        ...


class Captioned:
    """Base of the sources of captioned images: a `t2i` caption, or for `mmu` a request and the caption."""

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._questions = read_questions(config.captions.questions) if config.task == "mmu" else ()

    def sample(self, key: str, image: Image.Image, caption: object, generator: torch.Generator) -> CorpusSample:
        """Returns the sample of an image and its caption.

        Raises:
            BadSample: There is no caption.
        """
        config = self._config
        text = clean_caption(caption, config.captions, config.task, key, generator)
        if config.task == "t2i":
            return CorpusSample(key=key, task="t2i", text=text, image=image)
        messages = describe(text, self._questions, config.instruction, generator)
        return CorpusSample(key=key, task="mmu", messages=messages, image=image)


class ImageFolder:
    """The images below a folder; captions are the names of its folders, or are in other files.

    In other files, the key of an image is its path in the folder, without the ending.
    """

    def __init__(self, config: SourceConfig) -> None:
        """Lists the folder.

        Raises:
            ValueError: No such folder, no image in it, or folders without a class name.
        """
        self._folder = Path(config.path).expanduser()
        if not self._folder.is_dir():
            raise DataError(f"{config.path}: no such folder (looked in {Path.cwd()})")
        files = _visible_files(self._folder)
        self._names = [name for name in files if Path(name).suffix[1:].lower() in IMAGE_ENDINGS]
        if not self._names:
            raise DataError(f"{config.path}: none of {len(files)} files ends in {', '.join(IMAGE_ENDINGS)}")
        logger.info("%s: %d images, %d other files", config.path, len(self._names), len(files) - len(self._names))
        self._captioned = Captioned(config)
        self._store = open_store(config.captions, config.index_folder)
        self._classes = {} if self._store else _class_names(config.captions.path, self._names, self._folder)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int, generator: torch.Generator) -> CorpusSample:
        name = Path(self._names[index])
        where = str(self._folder / name)
        key = name.with_suffix("").as_posix()
        caption = self._store.find("", key) if self._store else self._classes[name.parent.name]
        return self._captioned.sample(where, open_image(self._folder / name, where), caption, generator)


class Webdataset:
    """The samples of tars, with captions in them or in other files."""

    def __init__(self, config: SourceConfig) -> None:
        """Reads the headers of the tars.

        Raises:
            ValueError: No such files, a file that is not a tar, or no sample in any.
        """
        self._tars = TarSamples(expand_paths(config.path, "webdataset tars"), config.index_folder)
        self._captioned = Captioned(config)
        self._store = open_store(config.captions, config.index_folder)
        self._member, _, self._field = config.captions.member.partition(".")

    def __len__(self) -> int:
        return len(self._tars)

    def read(self, index: int, generator: torch.Generator) -> CorpusSample:
        found = self._tars.read(index)
        where = f"{found.tar}:{found.key}"
        content = next((found.members[ending] for ending in IMAGE_ENDINGS if ending in found.members), None)
        if content is None:
            raise BadSample("missing image", f"{where}: no image among the members {sorted(found.members)}; {APART}")
        caption = self._store.find(found.tar.stem, found.key) if self._store else self._inside(found, where)
        return self._captioned.sample(where, open_image(content, where), caption, generator)

    def _inside(self, found: TarSample, where: str) -> object:
        content = found.members.get(self._member)
        if content is None:
            what = f"no member {self._member}; found {sorted(found.members)}; {APART}"
            raise BadSample("missing caption", f"{where}: {what}")
        place = f"{where}.{self._member}"
        if not self._field:
            return checked(decode(content, place), place)
        return parse_object(content, place).get(self._field)


def _visible_files(folder: Path) -> list[str]:
    """The files below a folder, in order, without hidden ones such as those of `.ipynb_checkpoints`."""
    files: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [str(Path(parent).relative_to(folder) / name) for name in names if not name.startswith(".")]
    return sorted(files)


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be read ({error.strerror})") from error


def _class_names(path: str, names: list[str], root: Path) -> dict[str, str]:
    """Returns the name of each folder that holds images."""
    folders = sorted({Path(name).parent.name for name in names})
    if "" in folders:
        stray = next(name for name in names if not Path(name).parent.name)
        raise DataError(f"{root}: images outside of a class's folder, such as {stray}; put them into one")
    if not path:
        return {folder: folder.replace("_", " ") for folder in folders}
    lines = read_text(Path(path).expanduser()).split("\n")
    entries: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        key, colon, name = line.partition(":")
        if line.strip() and not (colon and name.strip()):
            raise DataError(f"{path}:{number}: expected `index: name` or `folder: name`, found {line[:60]!r}")
        entries[key.strip()] = name.strip()
    classes = {folder: entries.get(folder, entries.get(str(index))) for index, folder in enumerate(folders)}
    nameless = [folder for folder, name in classes.items() if name is None]
    if nameless:
        raise DataError(f"{path}: no name for {len(nameless)} folders of {root}, the first is {nameless[0]!r}")
    return {folder: name for folder, name in classes.items() if name is not None}
