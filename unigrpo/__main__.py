"""``python -m unigrpo`` is the ``unigrpo`` command."""

from unigrpo.cli.main import console

console()
