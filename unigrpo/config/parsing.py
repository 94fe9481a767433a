"""Parsing of command lines: one YAML file and dotted flags become a config. Each error message is one line."""

# pyright: standard
# jsonargparse and YAML have values of unknown type.

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_loader, set_parsing_settings

from unigrpo import ConfigError
from unigrpo.config.names_elsewhere import ELSEWHERE
from unigrpo.config.old_names import renamed_flags
from unigrpo.config.yaml_text import load_yaml

Config = TypeVar("Config")
UNKNOWN_KEY = re.compile(r"[Oo]ption '([^']+)'")
"""The key in the parser's message about a key of a YAML file that it does not know."""
SECTION_HELP = "Path to a configuration file."
"""The parser's help of a flag that reads a section of settings from a file, of which there are twenty."""
TYPE_ERROR = re.compile(r'Parser key "(?P<name>[^"]+)": Expected a (?P<kinds>.+)\. Got value: (?P<value>.*)')
UNION_ERROR = re.compile(
    r'Parser key "(?P<name>[^"]+)": Does not validate against any of the Union subtypes Subtypes: \[(?P<kinds>.+)\] '
    r"Errors: .* Given value: (?P<value>.*)"
)
"""The parser's messages about a value that is not of the type, or of one of the types, of its setting."""
SECTION_ERROR = re.compile(
    r'Parser key "(?P<name>[^"]+)": Not a valid subclass of (?P<kinds>\w+)\. Got value: (?P<value>.*?) '
    r"Subclass types .*"
)
"""The parser's message about an item of a list, or a value of a dictionary, that is no section."""
PATH_ERROR = re.compile(
    r'Parser key "(?P<name>[^"]+)": (?P<problem>File does not exist|Path is not a file): (?P<path>.*)'
)
"""The parser's message about a file of settings."""
REQUIRED_ERROR = re.compile(r"the following arguments are required: (.+)")
"""The parser's message about flags that are missing, whose names it gives without the dashes."""
KIND = re.compile(r"<class '[^']+'>|typing\.Literal\[[^\]]*\]")
TYPE_WORDS = {
    "NoneType": "null",
    "bool": "true or false",
    "dict": "settings in braces, such as {name: value}",
    "float": "a number",
    "int": "a whole number",
    "list": "a list, such as [a, b]",
    "str": "a text",
    "tuple": "a list, such as [a, b]",
}
FLAG = re.compile(r"--[A-Za-z][\w.]*")

set_parsing_settings(docstring_parse_attribute_docstrings=True)
set_loader("yaml", load_yaml, exceptions=(yaml.YAMLError,))


def run_parser(program: str, description: str, config: type) -> ArgumentParser:
    """Returns a parser whose dotted flags are the fields of a config class."""
    parser = ArgumentParser(
        prog=program,
        description=description,
        usage="%(prog)s [--config FILE.yaml] [--section.name VALUE ...]",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with settings; flags after it override it")
    parser.add_class_arguments(config)
    hide_sections(parser)
    return parser


def hide_sections(parser: ArgumentParser) -> None:
    """Hides the flags that read a whole section from a file in the help of a parser, which still accepts them."""
    for action in parser._actions:
        if action.help == SECTION_HELP:
            action.help = SUPPRESS


def hide_flags(parser: ArgumentParser, prefixes: Sequence[str], but: Sequence[str]) -> None:
    """Hides flags in the help of a parser, which still accepts them.

    Args:
        parser: The parser.
        prefixes: Prefixes of the dotted names of the flags.
        but: Names that are not hidden.
    """
    for action in parser._actions:
        if action.dest.startswith(tuple(prefixes)) and action.dest not in but:
            action.help = SUPPRESS


def parse(parser: ArgumentParser, arguments: Sequence[str], config: type | None = None) -> Any:
    """Parses a command line and constructs the dataclasses, which raises for wrong values.

    Args:
        parser: The parser.
        arguments: The command line.
        config: The class of the config, whose nested field names an error may suggest.

    Raises:
        ValueError: A flag or value is wrong; the message says which.
    """
    given = renamed_flags(arguments)
    try:
        parsed = parser.parse_args(given)
        if config is not None:
            _check_values(config, parsed, "")
        return parser.instantiate(parsed)
    except UnicodeDecodeError as error:
        raise ConfigError(f"the config file is not UTF-8 text ({error}); save it as UTF-8") from error
    except ArgumentError as error:
        message = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        flags = {flag for action in parser._actions for flag in action.option_strings if FLAG.fullmatch(flag)}
        message = _in_words(message)
        wrong = [name for a in given if a.startswith("--") and (name := a.split("=")[0]) not in flags]
        if wrong:
            raise ConfigError(f"{message}{_hint(wrong[0], flags, '--')}") from error
        if in_file := UNKNOWN_KEY.search(message):
            known = {part for flag in flags for part in flag[2:].split(".")} | _field_names(config)
            unknown = [key for key in in_file[1].split(".") if key not in known]
            message += _hint(unknown[0], known, "") if unknown else ""
        raise ConfigError(message) from error
    except ConfigError:
        raise
    except (ValueError, OverflowError) as error:  # a path with a null character, a number that no float holds
        raise ConfigError(f"a value of the config is invalid ({error}); change it") from error


def _check_values(hint: Any, value: Any, name: str) -> None:
    """Raises ConfigError for a null that its setting does not allow, and for a section whose value is not a section.

    The parser accepts null, which is the value of a YAML line without a value, for every setting.

    Args:
        hint: The type of the value.
        value: Value that the parser returned.
        name: Dotted name of the setting; empty for the whole config.
    """
    kinds = get_args(hint)
    if value is None and hint is not Any and type(None) not in kinds:
        raise ConfigError(f"{name} is null in the config; give it a value, or leave it out to use the default")
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # a default
            return
        if not isinstance(value, (Namespace, dict)):
            last = name.rpartition(".")[2]
            raise ConfigError(
                f"{name} is {value!r} in the config; it is a section, so write {last}: {{SETTING: VALUE}}"
            )
        for field, kind in get_type_hints(hint).items():
            if field in value:
                _check_values(kind, value[field], f"{name}.{field}".lstrip("."))
    elif isinstance(value, (list, tuple)) and get_origin(hint) in (list, tuple):
        for place, item in enumerate(value):
            _check_values(kinds[min(place, len(kinds) - 1 - (kinds[-1] is ...))], item, f"{name}[{place}]")
    elif isinstance(value, dict) and get_origin(hint) is dict:
        for key, item in value.items():
            _check_values(kinds[1], item, f"{name}.{key}")
    elif get_origin(hint) in (Union, UnionType) and value is not None:
        for kind in kinds:
            if get_origin(kind) in (list, tuple, dict):
                _check_values(kind, value, name)


def _in_words(message: str) -> str:
    r"""Rewrites the parser's message about a value of a wrong type in plain words.

    >>> _in_words('Parser key "train.num_steps": Expected a <class \'int\'>. Got value: ten')
    "train.num_steps is 'ten'; it must be a whole number"
    >>> _in_words("the following arguments are required: prompts, output")
    'these flags are missing: --prompts, --output; --help explains them'
    """
    if found := PATH_ERROR.fullmatch(message):
        problem = "no such file" if "exist" in found["problem"] else "this is no file"
        return f"--{found['name']} {found['path']}: {problem}; name a YAML file"
    if found := REQUIRED_ERROR.fullmatch(message):
        return (
            f"these flags are missing: {', '.join('--' + name for name in found[1].split(', '))}; --help explains them"
        )
    found = TYPE_ERROR.fullmatch(message) or UNION_ERROR.fullmatch(message) or SECTION_ERROR.fullmatch(message)
    if found is None:
        return message
    kinds = [_kind_in_words(kind) for kind in KIND.findall(found["kinds"])] or [TYPE_WORDS["dict"]]
    return f"{found['name']} is {found['value']!r:.200}; it must be {' or '.join(kinds)}"


def _kind_in_words(kind: str) -> str:
    """Returns the plain name of a type in the parser's messages."""
    if kind.startswith("typing.Literal"):
        return f"one of {kind.removeprefix('typing.Literal')[1:-1]}"
    name = kind.removeprefix("<class '").removesuffix("'>")
    return TYPE_WORDS.get(name, f"a {name.rpartition('.')[2]}")


def _hint(wrong: str, known: set[str], prefix: str) -> str:
    """Returns the hint at the end of an error message: the nearest name, our name of a TRL setting, or a pointer to
    help."""
    name = ELSEWHERE.get(wrong.removeprefix(prefix))
    if name is not None and (f"--{name}" in known or not prefix):
        return f"; here it is called {prefix}{name}"
    close = difflib.get_close_matches(wrong, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; --help lists the flags"


def _field_names(config: type | None) -> set[str]:
    """Returns the names of all fields of a config, including the classes in its lists and dictionaries."""
    names: set[str] = set()
    hints: list[Any] = [config]
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
    """Returns the config of a parsed command line."""
    return config(**{field.name: parsed[field.name] for field in dataclasses.fields(config)})  # type: ignore[arg-type]


def config_from_yaml(config: type[Config], file: str | Path, overrides: Mapping[str, Any]) -> Config:
    """Returns the config of a YAML file, read as the commands read it.

    Args:
        config: The class of the config.
        file: The YAML file.
        overrides: Values that replace those of the file, by dotted name: ``{"train.num_steps": 1}``.

    Raises:
        ConfigError: The file cannot be read, or a name or value in it or in `overrides` is wrong.
    """
    arguments = ["--config", str(file)]
    for name, value in overrides.items():
        arguments += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    parsed = parse(run_parser(config.__name__, "", config), arguments, config)
    return config_from_args(parsed, config)
