"""The program that :mod:`unigrpo.data.chat_templates.process` starts: it renders chat templates of checkpoints.

A template is a program that is not trusted. The sandbox of Jinja prevents access to Python and to files, but allows
endless loops and texts of any length, so this process has limits of CPU time and memory. It imports nothing of this
package, so that it starts quickly.
"""

from __future__ import annotations

import json
import math
import resource
import sys
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_MEMORY = 2**29
"""Memory limit of this process in bytes."""
MAX_LENGTH = (100_000, 10)
"""Limits of the length of a result: a number of characters, and a multiple of the length of the messages."""
MAX_REASON = 200
"""Number of characters of an error's message that are sent back."""


class LimitExceeded(Exception):
    """A rendering exceeds a limit."""


class Generation(Extension):
    """The tag around what the assistant says, by which transformers finds the tokens to train on."""

    tags: set[str] = {"generation"}  # noqa: RUF012  # Jinja declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        """Returns the text between the tags, rendered in its own scope."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def render(template: str, messages: list[dict[str, str]], values: Mapping[str, Any]) -> str:
    """Returns messages as text.

    Args:
        template: The chat template.
        messages: Messages with ``role`` and ``content``.
        values: Other names that the template may read, such as ``bos_token``.

    Raises:
        LimitExceeded: The result is too long.
        Exception: The template fails.
    """
    text = _compiled(template).render(messages=messages, tools=None, documents=None, **values)
    least, factor = MAX_LENGTH
    most = least + factor * sum(len(str(message.get("content"))) for message in messages)
    if len(text) > most:
        raise LimitExceeded(f"the result has {len(text)} characters, expected at most {most}")
    text.encode()  # half of a surrogate pair, which no tokenizer takes, is an error
    return text


@lru_cache(8)
def _compiled(template: str) -> Template:
    """Returns a template in an environment with the extensions, filters and functions that transformers gives it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _fail, "strftime_now": _now}
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _fail(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def answer(request: str) -> str:
    """Returns the answer to a request as JSON.

    It is ``{"text": ...}``, ``{"limit": ...}`` with the limit that was exceeded, or ``{"reason": ...}`` where the
    template fails.
    """
    try:
        return json.dumps({"text": render(**json.loads(request))})
    except MemoryError:
        return json.dumps({"limit": f"it takes more than {MAX_MEMORY >> 20} MiB of memory"})
    except LimitExceeded as error:
        return json.dumps({"limit": str(error)})
    except Exception as error:  # a template fails in its own ways
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return json.dumps({"reason": " ".join(reason.split())[:MAX_REASON]})


def serve(seconds: float) -> None:
    """Answers the requests on standard input, one per line, each within a number of seconds of CPU time."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_AS, MAX_MEMORY)
    for line in sys.stdin:
        spent = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, math.ceil(spent.ru_utime + spent.ru_stime + seconds))
        sys.stdout.write(answer(line) + "\n")
        sys.stdout.flush()


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    serve(float(sys.argv[1]))
