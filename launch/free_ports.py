"""Ports that nobody listens on now.

Usage: python launch/free_ports.py COUNT    prints so many, one a line
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys

CANDIDATES = range(20000, 32768)
"""Below the ports that Linux gives to outgoing connections, which could take one until somebody listens on it, and
above those of Ray's workers (up to 19999)."""


def free_ports(count: int) -> list[int]:
    """Returns so many different ports, or fewer if not as many were found free."""
    found = []
    for port in random.sample(CANDIDATES, 100):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("", port))
            found.append(port)
    return found[:count]


if __name__ == "__main__":
    sys.stdout.writelines(f"{port}\n" for port in free_ports(int(sys.argv[1])))
