"""The ``ray`` command without Ray's client server, for a head that serves jobs alone.

The client server waits 30 s for the node, which starts only after the dashboard. On a busy machine it gives up, and
``ray start --block`` then ends the whole head.

Usage: python launch/ray_without_client.py start --head --block [OPTIONS OF ray start]
"""

from __future__ import annotations

from ray.scripts import scripts


def main() -> None:
    """Runs the ``ray`` command as where the packages of the client server are not installed."""
    setattr(scripts, "get_ray_client_dependency_error", lambda: "the client server is not wanted")  # noqa: B010
    scripts.main()


if __name__ == "__main__":
    main()
