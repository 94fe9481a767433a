"""Reading of JSON files that this program has written, with a check of the type of every value.

Such files may be edited by hand, rewritten by other programs or damaged. Each kind of file has a type, such as a
``TypedDict``, so that a wrong value is an error with file, line and name, and never a traceback later on.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from unigrpo import CheckpointError, ConfigError

FileError = type[ConfigError | CheckpointError]
Built = TypeVar("Built")
MAX_INTEGER = 2**63
"""Bound of integers; larger ones are no numbers for plots and tensors."""
NAMES = {
    int: "an integer", float: "a number", str: "a text", bool: "true or false", NoneType: "null", dict: "an object",
    list: "a list",
}  # fmt: skip


class WrongContent(ValueError):
    """A file has wrong content; the message says where, and what was expected."""


def read_json(path: Path, kind: Any, error: FileError, advice: str) -> Any:
    """Returns the content of a JSON file.

    Args:
        path: The file.
        kind: Type of the content; see :func:`checked`.
        error: Class of the error for a file that cannot be read.
        advice: What to do about a file that cannot be read.

    Raises:
        ConfigError or CheckpointError: The file cannot be read, or holds something else.
    """
    try:
        return json_content(path, kind)
    except WrongContent as problem:
        raise error(f"{path}: {problem}; {advice}") from problem


def json_content(path: Path, kind: Any) -> Any:
    """Returns the content of a JSON file. Raises WrongContent, which does not name the file."""
    return checked(_parsed(_text(path)), kind)


def read_json_lines(path: Path, kind: Any, error: FileError, advice: str) -> list[Any]:
    """Returns the rows of a JSON-lines file, without a last line that was cut off; empty if there is no file.

    Arguments and errors are those of :func:`read_json`; `kind` is the type of a row.
    """
    return [row for _, row in read_lines(path, kind, error, advice)]


def read_lines(path: Path, kind: Any, error: FileError, advice: str) -> list[tuple[str, Any]]:
    """Returns each line of a JSON-lines file without its line feed, and its row; see :func:`read_json_lines`."""
    if not path.exists():
        return []
    where, rows = str(path), list[tuple[str, Any]]()
    try:
        *whole, _ = _text(path).split("\n")  # what stands behind the last line feed was cut off
        for number, line in enumerate(whole, start=1):
            where = f"{path}:{number}"
            rows.append((line, checked(_parsed(line), kind)))
    except WrongContent as problem:
        raise error(f"{where}: {problem}; {advice}") from problem
    return rows


def replace_text(path: Path, text: str) -> None:
    """Writes a file under another name and renames it once it is on the disk, so that a full disk or a kill leaves the
    old one."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def checked(value: Any, kind: Any, where: str = "") -> Any:
    """Returns a value of JSON or YAML if it has a type.

    Args:
        value: The value.
        kind: `Any`, a type of JSON, a union, `Literal`, ``dict[str, ...]``, ``list[...]``, a ``TypedDict``, whose
            value may have further keys, or ``Annotated[...]``, whose value has all the types in the brackets. An
            integer is also a number (`float`), and `true` and `false` are neither.
        where: Name of the value within its file, for errors.

    Raises:
        WrongContent: The value, or a part of it, has another type.
    """
    form, parts = get_origin(kind) or kind, get_args(kind)
    if form in (Union, UnionType):
        if not any(_fits(value, part, where) for part in parts):
            raise _wrong(value, " or ".join(_name(part) for part in parts), where)
    elif form is Annotated:
        for part in parts:
            checked(value, part, where)
    elif form is Literal:
        if value not in parts:
            raise _wrong(value, f"one of {', '.join(map(repr, parts))}", where)
    elif is_typeddict(kind):
        fields: Mapping[str, Any] = get_type_hints(kind)
        _check_form(value, dict, where)
        if missing := sorted(kind.__required_keys__ - value.keys()):  # type: ignore[attr-defined]
            raise WrongContent(f"{where + ': ' if where else ''}{missing[0]!r} is missing")
        for name in fields.keys() & value.keys():
            checked(value[name], fields[name], _inner(where, name))
    elif kind is not Any:
        _check_form(value, form, where)
        for name, item in _items(value) if parts else ():
            checked(item, parts[-1], _inner(where, name))
    return value


def build(kind: type[Built], values: Mapping[str, Any]) -> Built:
    """Returns a dataclass with these values of its fields.

    Raises:
        WrongContent: A value has another type than its field, a field without a default is missing, or a name is
            none of a field.
    """
    hints = get_type_hints(kind)
    if unknown := sorted(values.keys() - hints.keys()):
        raise WrongContent(f"{unknown[0]!r} is not known")
    for name, value in values.items():
        checked(value, hints[name], name)
    try:
        return kind(**values)
    except TypeError as error:
        raise WrongContent(str(error)) from error


def _fits(value: Any, kind: Any, where: str) -> bool:
    try:
        checked(value, kind, where)
    except WrongContent:
        return False
    return True


def _check_form(value: Any, form: Any, where: str) -> None:
    """Raises WrongContent if a value is not of a simple type, which for containers is that without their items."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and (
        isinstance(value, float) or abs(value) < MAX_INTEGER
    )  # fmt: skip
    if form in (int, float):
        fits = is_number and (form is float or isinstance(value, int))
    elif form is str:
        fits = isinstance(value, str) and _is_unicode(value)
    else:
        fits = isinstance(value, form)
    if not fits:
        raise _wrong(value, _name(form), where)


def _is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which no file can take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _items(value: dict[str, Any] | list[Any]) -> Iterator[tuple[object, Any]]:
    return iter(value.items()) if isinstance(value, dict) else enumerate(value)


def _inner(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _name(kind: Any) -> str:
    """Returns a type in words."""
    return NAMES.get(dict if is_typeddict(kind) else get_origin(kind) or kind, str(kind))


def _wrong(value: Any, expected: str, where: str) -> WrongContent:
    return WrongContent(f"{where + ' is ' if where else 'found '}{reprlib.repr(value)}, expected {expected}")


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise WrongContent(f"cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise WrongContent(f"is no text ({error.reason} at byte {error.start})") from error


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
        raise WrongContent(f"is no JSON ({str(error) or type(error).__name__})") from error
