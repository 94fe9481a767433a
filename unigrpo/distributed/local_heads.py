"""The Ray heads that run on this machine, and the users who started them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil

TEMPORARY = "/unigrpo-ray-"
"""Part of the folder of a head that a launch script starts, and that ends with its command."""


@dataclass(frozen=True, kw_only=True)
class LocalHead:
    """A Ray head on this machine."""

    address: str
    """``host:port`` that drivers connect to."""
    user: str
    """Name of the user who started it."""
    is_own: bool
    """Whether it was started by the user of this process."""
    started: float
    """Time of its start, seconds since the epoch."""
    process: int
    """Process id."""

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.started))
        return f"{self.address}, started by {self.user} at {when} (process {self.process})"


def local_heads() -> list[LocalHead]:
    """Returns the heads that run here, the newest first, without those that a launch script has started for a command
    of its own."""
    found: list[LocalHead] = []
    for process in psutil.process_iter(["name", "cmdline", "uids", "username", "create_time", "pid"]):
        info = process.info
        if info["name"] != "gcs_server" or not info["cmdline"]:
            continue
        options = dict(word[2:].split("=", 1) for word in info["cmdline"] if word.startswith("--") and "=" in word)
        host, port = options.get("node-ip-address"), options.get("gcs_server_port")
        if not host or not port or port == "0" or TEMPORARY in options.get("log_dir", ""):
            continue
        found.append(
            LocalHead(
                address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
                user=info["username"],
                is_own=info["uids"].real == os.getuid(),
                started=info["create_time"],
                process=info["pid"],
            )
        )
    return sorted(found, key=lambda head: -head.started)
