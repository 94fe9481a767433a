"""Command lines: one YAML file and dotted flags become a run config, with errors of one line."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from unigrpo.config import RunConfig

Config = TypeVar("Config")
UNKNOWN_KEY = re.compile(r"[Oo]ption '([^']+)'")
"""In the parser's message about a key of a YAML file that it does not know."""

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def run_parser(program: str, description: str, config: type = RunConfig) -> ArgumentParser:
    """A parser whose dotted flags are the fields of a config's class."""
    parser = ArgumentParser(
        prog=f"python -m {program}",
        description=description,
        usage="%(prog)s [--config FILE.yaml] [--section.name VALUE ...]",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with the values; flags behind it win")
    parser.add_class_arguments(config)
    return parser


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Any:
    """Parses and constructs the dataclasses, so that wrong values fail here.

    Raises:
        ValueError: A flag or value is wrong; the message says which.
    """
    try:
        return parser.instantiate(parser.parse_args(list(arguments)))
    except ArgumentError as error:
        message = str(error)
        known = [flag for action in parser._actions for flag in action.option_strings]
        wrong = [a.split("=")[0] for a in arguments if a.startswith("--") and a.split("=")[0] not in known]
        if not wrong and (in_file := UNKNOWN_KEY.search(message)):
            known = sorted(_field_names(parser))
            wrong = [key for key in in_file[1].split(".") if key not in known]
        close = difflib.get_close_matches(wrong[0], known, n=1) if wrong else []
        hint = f"; did you mean {close[0]}?" if close else "; --help lists the flags"
        raise ValueError(message + (hint if wrong else "")) from error


def _field_names(parser: ArgumentParser) -> set[str]:
    """Names of all fields of a parser's config, those of the classes in its lists and dictionaries included."""
    names = {name for action in parser._actions for name in action.dest.split(".")}
    hints = [getattr(action, "_typehint", None) for action in parser._actions]
    seen: set[Any] = set()
    while hints:
        hint = hints.pop()
        hints += get_args(hint)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint not in seen:
            seen.add(hint)
            names |= {field.name for field in dataclasses.fields(hint)}
            hints += get_type_hints(hint).values()
    return names


def config_from_args(parsed: Any, config: type[Config]) -> Config:
    """The config of a parsed command line."""
    return config(**{field.name: parsed[field.name] for field in dataclasses.fields(config)})  # type: ignore[arg-type]


def main(run: Callable[[Sequence[str]], int]) -> None:
    """Runs a command: wrong input ends with one line and status 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    try:
        sys.exit(run(sys.argv[1:]))
    except ValueError as error:
        sys.exit(_fail(str(error), 2))


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return status
