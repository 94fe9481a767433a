"""A process with the real client libraries of the Hub, which runs commands of UniGRPO one after the other.

The libraries read ``HF_ENDPOINT``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` when they are imported, so they need a separate
process. It runs many commands, which saves the seconds of the imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]


class Answer(NamedTuple):
    """Status and output of a command."""

    status: int
    """Exit status, which is 1 after an exception."""
    out: str
    err: str


def error_of(answer: Answer) -> str:
    """Returns the one line of the error with which a command ended."""
    assert answer.status == 2, answer
    lines = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert lines and lines[-1] == answer.err.splitlines()[-1], answer.err
    assert "Traceback" not in answer.err and "HTTP Request" not in answer.err
    return lines[-1]


class HubClient:
    """Starts the process and sends commands to it."""

    def __init__(self, endpoint: str, home: Path, folder: Path, **environment: str) -> None:
        """Starts the process.

        Args:
            endpoint: Address of the Hub.
            home: ``HF_HOME``.
            folder: Working directory.
            environment: Further variables.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        settings = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(ROOT),
            "NO_PROXY": "*",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=kept | settings | environment,
        )

    def run(self, *arguments: str, token: str = "") -> Answer:
        """Runs ``unigrpo`` with these arguments."""
        return self._ask({"arguments": arguments, "token": token})

    def python(self, code: str, token: str = "") -> Answer:
        """Runs lines of Python."""
        return self._ask({"code": code, "token": token})

    def close(self) -> None:
        self._process.communicate(timeout=30)

    def _ask(self, question: Mapping[str, Any]) -> Answer:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return Answer(*json.loads(self._process.stdout.readline()))


def serve() -> None:
    """Answers the lines of the standard input."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        question = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = perform(question)
            sys.stdout.flush()
            sys.stderr.flush()
            texts = [os.pread(file.fileno(), 2**24, 0).decode() for file in (out, err)]
        answers.write(json.dumps([status, *texts]) + "\n")
        answers.flush()


def perform(question: Mapping[str, Any]) -> int:
    """Runs a command or lines of Python. Returns the exit status."""
    os.environ["HF_TOKEN"] = question["token"]
    try:
        if "code" in question:
            exec(question["code"], {})
            return 0
        from unigrpo.cli.main import main  # noqa: PLC0415  # Python alone may be asked for

        return main(question["arguments"])
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    serve()
