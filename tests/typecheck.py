"""The checker of types and shapes that `tests/conftest.py` puts around functions and dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

# Where a hint says float, type checkers allow an int.
checked: Callable[[Any], Any] = beartype(conf=BeartypeConf(is_pep484_tower=True))
