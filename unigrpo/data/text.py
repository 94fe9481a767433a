"""Reads all text: it converts the bytes of a file to checked text and JSON, or raises an error for a bad sample.

Only line feeds end lines. U+2028, at which Python's ``splitlines`` cuts, is part of a line.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unigrpo import DataError
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.files import GZIP, check_regular

MAX_DEPTH = 100
"""Largest depth of nested lists and objects. Deeper rows are errors, because Python's JSON and pickle fail on them."""


def read_bytes(path: Path) -> bytes:
    """Returns the content of a file, decompressed if its name ends in ``.gz``.

    Raises:
        ValueError: The file cannot be read or decompressed.
    """
    check_regular(path)
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == GZIP else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: could not be read ({type(error).__name__}: {reason})") from error


def read_text(path: Path) -> str:
    """Returns the text of a file, without a byte order mark.

    Raises:
        ValueError: The file cannot be read, or is not UTF-8.
    """
    try:
        return decode(read_bytes(path), str(path))
    except BadSample as error:
        raise DataError(str(error)) from error


def decode(content: bytes, where: str) -> str:
    """Returns UTF-8 as text, without a byte order mark at the start, which some editors write.

    Args:
        content: Bytes of a file or a line.
        where: File and line for errors.

    Raises:
        BadSample: The bytes are not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample(
            "not UTF-8", f"{where}: not UTF-8 text ({error.reason} at byte {error.start}); convert it to UTF-8"
        ) from error


def checked(text: str, where: str) -> str:
    """Returns the text if tokenizers and files can represent it.

    Raises:
        BadSample: It has half of a surrogate pair, which remains of an emoji that was cut in JSON.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadSample(
            "lone surrogate",
            f"{where}: half of a surrogate pair ({text[error.start]!r}) at character {error.start}, which is no text; "
            "remove it",
        ) from error
    return text


def parse_json(content: bytes | str, where: str) -> Any:
    """Returns JSON as Python's values, with all text in it checked.

    Raises:
        BadSample: See :func:`parse_unchecked` and :func:`check_value`.
    """
    value = parse_unchecked(content, where)
    check_value(value, where)
    return value


def parse_unchecked(content: bytes | str, where: str) -> Any:
    """Returns JSON as Python's values, for a caller that calls :func:`check_value` on the rows in it.

    Raises:
        BadSample: It is not UTF-8, not JSON, far too deep, or has a key twice in one object.
    """
    text = decode(content, where) if isinstance(content, bytes) else content
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise BadSample(
            "no JSON", f"{where}: not JSON ({error.msg} at column {error.colno}): {text[:60]!r}"
        ) from error
    except RecursionError as error:
        raise BadSample("too deep", f"{where}: lists or objects are nested more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        raise BadSample("no JSON", f"{where}: not JSON ({error}): {text[:60]!r}") from error


def check_value(value: object, where: str) -> None:
    """Checks all text in nested lists and mappings, and their depth.

    Raises:
        BadSample: See :func:`checked`; or they are too deep.
    """
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                checked(item, where)
            elif isinstance(item, Mapping):
                below += item.keys()
                below += item.values()
            elif isinstance(item, (list, tuple)):
                below += item
        if not below:
            return
        level = below
    raise BadSample("too deep", f"{where}: lists or objects are nested more than {MAX_DEPTH} deep")


def parse_object(content: bytes | str, where: str) -> Mapping[str, Any]:
    """Returns a JSON object.

    Raises:
        BadSample: See :func:`parse_json`; or it is another kind of value.
    """
    value = parse_json(content, where)
    if not isinstance(value, dict):
        raise BadSample("no JSON object", f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, number in Counter(key for key, _ in pairs).items() if number > 1]
    if twice:
        raise DataError(f"key {twice[0]!r} occurs more than once; keep one")
    return dict(pairs)
