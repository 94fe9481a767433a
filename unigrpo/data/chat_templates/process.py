"""Renders chat templates in another process with limits of time and memory."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unigrpo import CheckpointError, DataError

SECONDS = 5.0
"""Largest CPU time of one rendering in seconds; usual templates take less than a millisecond."""
VARIABLES = ("PATH", "HOME", "TZ", "LANG", "LC_ALL", "LC_TIME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONHOME")
"""Environment variables that Python and the date of a template need. Others, such as tokens, are not passed on."""


class TemplateProcess:
    """The process of :mod:`unigrpo.data.chat_templates.program`, which starts when it is first needed.

    Threads may share it.
    """

    def __init__(self) -> None:
        self.forget()

    def render(self, template: str, messages: Sequence[Mapping[str, str]], values: Mapping[str, Any]) -> str:
        """Returns messages as text.

        Args:
            template: The chat template.
            messages: Messages with ``role`` and ``content``.
            values: Other names that the template may read, in types of JSON.

        Raises:
            DataError: The template fails on these messages; the message of the error says why.
            CheckpointError: The template takes too much time or memory, or its result is too long.
        """
        request = json.dumps({"template": template, "messages": list(messages), "values": dict(values)}, default=str)
        with self._lock:
            try:
                found = json.loads(self._answer(request.encode() + b"\n"))
            except BaseException:  # a later request must not get the answer to this one
                self._end()
                raise
        if "limit" in found:
            raise CheckpointError(found["limit"])
        if "reason" in found:
            raise DataError(found["reason"])
        return str(found["text"])

    def close(self) -> None:
        """Ends the process. A later rendering starts another one."""
        with self._lock:
            self._end()

    def forget(self) -> None:
        """Forgets the process, which belongs to the parent of this forked process."""
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def _answer(self, request: bytes) -> bytes:
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(request)
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line.endswith(b"\n"):
            return line
        status = process.wait()
        if status == -signal.SIGXCPU:
            raise CheckpointError(f"it takes more than {SECONDS:g} s of processor time")
        raise CheckpointError(f"the process that renders it ended with status {status}")

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("program.py")), str(SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: os.environ[name] for name in VARIABLES if name in os.environ}
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is for this process, which ends that one
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


TEMPLATE_PROCESS = TemplateProcess()
atexit.register(TEMPLATE_PROCESS.close)
os.register_at_fork(after_in_child=TEMPLATE_PROCESS.forget)
