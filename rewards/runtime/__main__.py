"""The program that :mod:`rewards.runtime.process` starts with the descriptor of its connection as argument."""

from __future__ import annotations

import contextlib
import os
import pkgutil
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from rewards.runtime.errors import describe
from rewards.runtime.memory import limit_memory
from rewards.runtime.output import limit_output


def _serve(connection: Connection) -> None:
    """Builds an object, and answers calls of its methods until the other side hangs up."""
    sys.path[:] = connection.recv()
    name, arguments = connection.recv()
    host = pkgutil.resolve_name(name)(*arguments)
    while True:
        method, arguments = connection.recv()
        connection.send(_answer(getattr(host, method), arguments))


def _answer(method: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    """Whether a call went well, and what it returned or the message of its error."""
    try:
        return True, method(*arguments)
    except ValueError as error:
        return False, str(error)
    except BaseException as error:  # reported and never raised: the process serves on
        return False, describe(error)


def _end_with_parent() -> None:
    """Ends this process once its parent is gone, even if user code hangs."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _end_with_parent()
    limit_memory()
    limit_output()
    try:
        with contextlib.suppress(EOFError, OSError):
            _serve(Connection(int(sys.argv[1])))
    except ImportError as error:
        sys.exit(describe(error))
