"""The ``ray`` command for a head that serves jobs alone: without Ray's client server, and patient on a busy machine.

The client server waits 30 s for the node, which starts only after the dashboard. On a busy machine it gives up, and
``ray start --block`` then ends the whole head. The command itself also gives up after 30 s, and the node after 15 s if
its agents have not told their ports by then, which no setting changes. Of given ports, it waits for one alone.
The head ends with the process that started it, even where that one was killed and could end nothing.

Usage: python launch/ray_without_client.py start --head --block [OPTIONS OF ray start]
"""

from __future__ import annotations

import ctypes
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from ray._private import services
from ray._raylet import DASHBOARD_AGENT_LISTEN_PORT_NAME, persist_port  # type: ignore[attr-defined]  # compiled

NODE_SECONDS = 110.0
"""How long a node may take to register."""
PR_SET_PDEATHSIG = 1
"""The option of prctl(2) by which a process gets a signal at the end of the one that started it."""


def end_with_parent() -> None:
    """Makes the end of the process that started this one, by whatever cause, end this one as SIGTERM does."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before
        sys.exit("the process that started this Ray head has ended")


def patient(ask: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Returns a function that asks again every half second, up to so many seconds, while it gets a RuntimeError."""

    def ask_again(*arguments: Any) -> Any:
        ending = time.monotonic() + seconds
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:
                if time.monotonic() >= ending:
                    raise
            time.sleep(0.5)

    return ask_again


def told_before(start_raylet: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that starts a node, to which the given port of its agent is told before.

    The agent tells the same port again once it has started.
    """

    def start(*arguments: Any, **options: Any) -> Any:
        given = inspect.signature(start_raylet).bind(*arguments, **options).arguments
        if given["dashboard_agent_listen_port"]:
            persist_port(
                given["session_dir"],
                given["node_id"],
                DASHBOARD_AGENT_LISTEN_PORT_NAME,
                given["dashboard_agent_listen_port"],
            )
        return start_raylet(*arguments, **options)

    return start


def main() -> None:
    """Runs the ``ray`` command as where the packages of the client server are not installed."""
    end_with_parent()
    from ray.scripts import scripts  # noqa: PLC0415  # with warnings

    setattr(scripts, "get_ray_client_dependency_error", lambda: "the client server is not wanted")  # noqa: B010
    setattr(services, "start_raylet", told_before(services.start_raylet))  # noqa: B010
    setattr(services, "get_node", patient(services.get_node, NODE_SECONDS))  # noqa: B010
    scripts.main()


if __name__ == "__main__":
    main()
