"""Runs program.py of the working directory with few permissions and a time limit, and reports how it ended.

Usage: python -I runner.py PYTHON SECONDS ALLOW_UNISOLATED   (server.py starts it)

The program reads ../stdin and writes to ../stdout and ../stderr. This process prints a report as a line of JSON to its
own standard output, which the program cannot reach. The program is the first process of its own PID namespace: it sees
no process outside of it, and when it ends, the kernel ends all processes that it started.

The server starts this file because it has several threads: between fork and exec, a child of such a process may not
run Python code.
"""

import ctypes
import json
import math
import os
import resource
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
PR_SET_NO_NEW_PRIVS = 38
NOBODY = 65534
MEMORY_BYTES = 1 << 30
FILE_BYTES = 1 << 24


def isolate(libc: ctypes.CDLL) -> bool:
    """Puts the next child into namespaces without network devices and without other processes.

    Returns:
        Whether the kernel allows it.
    """
    namespaces = CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC
    if os.geteuid() == 0:
        if libc.unshare(namespaces) == 0:
            return True
        become_nobody()  # in a user namespace, root would still have access to the files of root
    return libc.unshare(CLONE_NEWUSER | namespaces) == 0


def become_nobody() -> None:
    """Drops the permissions of root."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def set_limits(seconds: float) -> None:
    """Bounds the CPU time, memory, files, number of processes and core dumps of this process."""
    for kind, limit in (
        (resource.RLIMIT_CPU, math.ceil(seconds) + 1),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def open_files() -> list[int]:
    """Opens the standard input, output and error output of the program."""
    modes = {"stdin": os.O_RDONLY, "stdout": os.O_WRONLY, "stderr": os.O_WRONLY}
    return [os.open(f"../{name}", mode) for name, mode in modes.items()]


def become_program(libc: ctypes.CDLL, python: str, files: list[int], seconds: float) -> NoReturn:
    """Turns this process into the program. An error is reported."""
    report = os.dup(1)  # closed when the program starts
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        if os.geteuid() == 0:
            become_nobody()
        set_limits(seconds)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        os.execve(python, [python, "-I", "program.py"], {"PATH": "/usr/bin:/bin"})
    except BaseException as error:
        reason = f"{python} cannot be started ({error}); give a Python that the user nobody may start as --python"
        os.write(report, json.dumps({"error": reason}).encode() + b"\n")
        os._exit(1)


def wait(child: int, seconds: float) -> dict[str, Any]:
    """Waits until the program ends, and ends it after a time."""

    def give_up(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        _, status = os.waitpid(child, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return {"status": "TimeLimitExceeded", "return_code": None}
    return {"status": "Finished", "return_code": os.waitstatus_to_exitcode(status)}


def main() -> None:
    """Runs the program and prints the report."""
    python, seconds, allow_unisolated = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "1"
    libc = ctypes.CDLL(None, use_errno=True)
    files = open_files()  # opened with the permissions of the service
    if not isolate(libc) and not allow_unisolated:
        reason = os.strerror(ctypes.get_errno())
        error = (
            f"the kernel does not allow the service to take the network from a program ({reason}); allow user "
            "namespaces, or run the service in a container without network and with --allow_unisolated"
        )
        print(json.dumps({"error": error}))
        return
    child = os.fork()
    if child == 0:
        become_program(libc, python, files, seconds)
    print(json.dumps(wait(child, seconds)))


if __name__ == "__main__":
    main()
