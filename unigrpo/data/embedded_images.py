"""Images inside tables, which are found in a cell, get a name, and are read by this name when they are needed.

The images of a table may need more memory than a process has. A prompt therefore has only the name of its image, which
is the path of a file or the position in a table.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import re
from collections.abc import Mapping

from unigrpo import DataError
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.prompt_chats import chat_in
from unigrpo.data.tables import Table, open_table

EMBEDDED = "embedded:"
"""Start of the name of an image in a table."""
BASE64_STARTS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk0")
"""Starts of JPEG, PNG, GIF, WebP and BMP files in base64."""
LONGEST_PATH = 4096
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def images_in(cell: object, where: str) -> list[bytes | str]:
    """Returns the images of a cell: bytes of files, or paths.

    Args:
        cell: A path, bytes, ``{"bytes": ..., "path": ...}`` as in `datasets`, base64, a data URI, a chat whose turns
            have images among their parts, or a list of these; None and "" hold no image.
        where: File and line for errors.

    Raises:
        BadSample: The cell holds something else, or the address of an image on the web.
    """
    if cell is None or cell == "" or cell == b"":
        return []
    if isinstance(cell, bytes):
        return [cell]
    if isinstance(cell, str):
        return [_from_text(cell, where)]
    if isinstance(cell, Mapping):
        return _from_mapping(cell, where)
    if isinstance(cell, (list, tuple)):
        return [image for item in cell for image in images_in(item, where)]
    raise BadSample("no image", f'{where}: "image" must be the path of a file or an image; found {cell!r:.60}')


def embedded_name(table: str, split: str, row: int, column: str, position: int, *, shown: str = "") -> str:
    """Returns the name of an image in a table.

    Args:
        table: Path with which every process opens the table, see :func:`~unigrpo.data.tables.without_hub`.
        split: Split with which the table is opened.
        row: Number of the row.
        column: Column of the table.
        position: Number of the image among those of its cell.
        shown: Name of the table for people, if it is not the path.
    """
    place = {"table": table, "split": split, "row": row, "column": column, "position": position}
    if shown not in ("", table):
        place["shown"] = shown
    return EMBEDDED + json.dumps(place)


def shown_name(name: str) -> str:
    """Returns the name of an image for people: a path as it is, or table, split, row (from 0) and column.

    >>> shown_name(embedded_name("data/clevr", "train", 43, "image", 0)).partition("[train]")
    ('data/clevr', '[train]', "[43], column 'image'")
    """
    if not name.startswith(EMBEDDED):
        return name
    try:
        place = json.loads(name.removeprefix(EMBEDDED))
        return f"{place.get('shown', place['table'])}[{place['split']}][{place['row']}], column {place['column']!r}"
    except (LookupError, TypeError, AttributeError, json.JSONDecodeError):
        return name[:200]


def embedded_bytes(name: str) -> bytes:
    """Returns the content of the file of an image that :func:`embedded_name` named.

    Raises:
        ValueError: The table has changed since then, so that there is no such image, or this machine does not see it.
    """
    try:
        place = json.loads(name.removeprefix(EMBEDDED))
        cell = _table(place["table"], place["split"]).row(place["row"])[place["column"]]
        image = images_in(chat_in(cell), name)[place["position"]]
    except (BadSample, LookupError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{name:.200}: there is no such image any more ({type(error).__name__}: {error})") from error
    if isinstance(image, str):
        raise DataError(f"{name}: there is no such image any more; found the path {image}")
    return image


@functools.lru_cache(maxsize=16)
def _table(path: str, split: str) -> Table:
    try:
        return open_table(path, split)
    except DataError as error:
        raise DataError(
            f"{error}. A table with images and the cache of the Hub (HF_HOME) must lie on a file system that all "
            "nodes see"
        ) from error


def _from_text(text: str, where: str) -> bytes | str:
    """Returns a path, or the bytes of base64."""
    text = text.strip()
    address = _ADDRESS.match(text)
    if address and address[1].lower() != "file":
        raise BadSample("image on the web", f"{where}: {text[:80]} is an address; download it and give its path")
    if text.startswith(EMBEDDED):
        raise BadSample("no image", f"{where}: {text[:80]!r} is a name that only this program may use")
    if text.startswith("data:"):
        return _decoded(text.partition(",")[2], where)
    if len(text) > LONGEST_PATH or (len(text) > 255 and text.startswith(BASE64_STARTS)):
        return _decoded(text, where)
    return text[address.end() :] if address else text


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSample("no image", f"{where}: no base64 of an image ({error}): {text[:40]!r}") from error


def _from_mapping(cell: Mapping[str, object], where: str) -> list[bytes | str]:
    """Returns the images of a file as in `datasets`, of a turn of a chat, or of a part of a turn."""
    if cell.get("bytes"):
        return images_in(cell["bytes"], where)
    kind = cell.get("type")
    if kind == "text":
        return []
    if kind in ("image", "image_url", "input_image"):
        named = next((cell[name] for name in ("image", "image_url", "url", "path", "base64") if cell.get(name)), None)
        return images_in(named, where)
    if "role" in cell or "from" in cell:
        content = cell.get("content")
        return images_in(content, where) if isinstance(content, (list, tuple)) else []
    if "path" in cell or "url" in cell:
        return images_in(cell.get("path") or cell.get("url"), where)
    if "bytes" in cell:
        return []
    raise BadSample("no image", f'{where}: "image" holds the keys {sorted(cell)}; expected bytes or path')
