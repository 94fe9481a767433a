"""The ``ray`` command with longer waits for busy machines, for nodes that run jobs, without the server of Ray Client.

A node ends itself if its agents have not announced their ports within 15 s, which no setting changes, and it does not
ask for ports that are given; so each agent gets a free one beforehand. The client server waits 30 s for the node,
which starts only after the dashboard, then gives up, and ``ray start --block`` ends the whole head with it. Other
waits of Ray are settings, which get longer here unless they are set.

Usage: python launch/ray_node.py [--end_with_parent] [--jobs_only] start [OPTIONS OF ray start]
With --end_with_parent the node ends with the process that started it, even where that one was killed.
With --jobs_only a head has the job server, and no other part of Ray's dashboard.
"""

from __future__ import annotations

import ctypes
import importlib
import inspect
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from free_ports import free_ports

WAITS = {
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "110",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "110",
    "RAY_agent_register_timeout_ms": "110000",
    "RAY_worker_register_timeout_seconds": "180",
}
"""Settings of Ray and their values here. Its own limits end a head on a busy machine: 30 s for each part of the
dashboard and for each agent to start, 60 s for the dashboard as a whole. A process for a worker that takes longer than
60 s to start is ended and started anew, so that a run might never begin."""
NODE_SECONDS = 110.0
"""How long a node may take to register; Ray gives up after 30 s."""
AGENT_PORTS = (
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--metrics-export-port",
    "--runtime-env-agent-port",
)
OPTIONS = ("--end_with_parent", "--jobs_only")
PR_SET_PDEATHSIG = 1
"""The option of prctl(2) by which a process gets a signal at the end of the one that started it."""


def end_with_parent() -> None:
    """Makes the end of the process that started this one, by whatever cause, end this one as SIGTERM does."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before
        sys.exit("the process that started this Ray node has ended")


def with_agent_ports(words: Sequence[str]) -> list[str]:
    """Returns the words of a ``ray start`` with a free port for each agent that has none."""
    given = {word.partition("=")[0] for word in words}
    missing = [option for option in AGENT_PORTS if option not in given]
    taken = {word.rpartition("=")[2] for word in words}
    ports = [port for port in map(str, free_ports(2 * len(words) + len(missing))) if port not in taken]
    return [*words, *(word for pair in zip(missing, ports, strict=False) for word in pair)]


def with_retries(ask: Callable[..., Any], seconds: float) -> Callable[..., Any]:
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


def with_agent_port_written(start_raylet: Callable[..., Any], persist_port: Callable[..., None]) -> Callable[..., Any]:
    """Returns a function that writes the port of a node's agent where the node looks for it, and starts the node.

    It is the one port that the node waits for even where it is given. The agent writes it again once it has started.
    """

    def start(*arguments: Any, **options: Any) -> Any:
        given = inspect.signature(start_raylet).bind(*arguments, **options).arguments
        if given["dashboard_agent_listen_port"]:
            persist_port(
                given["session_dir"],
                given["node_id"],
                "dashboard_agent_listen_port",
                given["dashboard_agent_listen_port"],
            )
        return start_raylet(*arguments, **options)

    return start


def first_only(handle: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a handler of a signal that handles the first one and ignores those after it.

    A node that is stopped may get SIGTERM twice: from whoever stops it, and at the end of the process that started it.
    Ray's handler holds a lock for which it would wait for ever in the second one, so that the node would not end.
    """

    def handle_first(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)
        handle(number, frame)

    return handle_first


def with_jobs_only(start_process: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that starts a process of Ray, the dashboard without the parts that no job needs.

    Each part is a process of its own, which loads for seconds. Jobs need JobHead, and NodeHead, which tells it where
    the head is.
    """

    def start(command: list[str], process_type: str, *arguments: Any, **options: Any) -> Any:
        parts = ["--modules-to-load=JobHead,NodeHead"] if process_type == "dashboard" else []
        return start_process([*command, *parts], process_type, *arguments, **options)

    return start


def main(words: list[str]) -> None:
    """Runs the ``ray`` command with these words."""
    own = list(itertools.takewhile(OPTIONS.__contains__, words))
    words = words[len(own) :]
    if "--end_with_parent" in own:
        end_with_parent()
    if words[:1] == ["start"]:
        words = with_agent_ports(words)
    for name, value in WAITS.items():
        os.environ.setdefault(name, value)
    # Ray reads the settings when it is imported.
    services = importlib.import_module("ray._private.services")
    utils = importlib.import_module("ray._private.utils")
    scripts = importlib.import_module("ray.scripts.scripts")
    persist_port = importlib.import_module("ray._raylet").persist_port
    # As where the packages of the client server are not installed.
    setattr(scripts, "get_ray_client_dependency_error", lambda: "the client server is not wanted")  # noqa: B010
    setattr(services, "start_raylet", with_agent_port_written(services.start_raylet, persist_port))  # noqa: B010
    setattr(services, "get_node", with_retries(services.get_node, NODE_SECONDS))  # noqa: B010
    set_sigterm_handler = utils.set_sigterm_handler
    setattr(utils, "set_sigterm_handler", lambda handle: set_sigterm_handler(first_only(handle)))  # noqa: B010
    if "--jobs_only" in own:
        setattr(services, "start_ray_process", with_jobs_only(services.start_ray_process))  # noqa: B010
    sys.argv[1:] = words
    scripts.main()


if __name__ == "__main__":
    main(sys.argv[1:])
