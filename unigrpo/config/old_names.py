"""Names of settings of versions 0.1 and 0.2, which this version still accepts."""

# pyright: standard
# jsonargparse and YAML have values of unknown type.

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

from unigrpo import ConfigError

logger = logging.getLogger(__name__)

OLD_KEYS = {
    "pictures": "image",
    "train.parity_steps": "train.logprob_mismatch_steps",
    "train.parity_limit": "train.logprob_mismatch_limit",
    "reward.max_missing_share": "reward.max_missing_fraction",
}
"""Old dotted names of settings, and their current names."""
END_OF_SUPPORT = {"reward.max_missing_share": "0.4"}
"""The version that no longer accepts an old name, if it is not 0.3."""
OLD_FITS = {"squash": "stretch"}
"""Old values of every setting called `fit`, and their current names."""


def renamed_flags(arguments: Sequence[str]) -> list[str]:
    """Returns a command line with the old names of flags and values replaced.

    >>> renamed_flags(["--pictures.fit", "squash", "--train.parity_steps=5"])
    ['--image.fit', 'stretch', '--train.logprob_mismatch_steps=5']
    """
    result: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag.startswith("--"):
            flag = "--" + _renamed_key(flag[2:])
            argument = flag + equals + (_renamed_fit(value) if _is_fit(flag) else value)
        elif result and _is_fit(result[-1]):
            argument = _renamed_fit(argument)
        result.append(argument)
    return result


def renamed_config(content: Any) -> Any:
    """Returns the content of a YAML file with the old names of keys and values replaced.

    >>> renamed_config({"pictures": {"fit": "squash"}})
    {'image': {'fit': 'stretch'}}

    Raises:
        ConfigError: A setting has both its old and its new name.
    """
    for old, new in OLD_KEYS.items():
        *path, last = old.split(".")
        section = content
        for key in path:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict) and last in section:
            name = new.split(".")[-1]
            if name in section:
                raise ConfigError(f"the config has {old} and {new}, which are one setting; keep {new}")
            section[name] = section.pop(last)
            _tell(old, new)
    return _with_renamed_fits(content)


def _with_renamed_fits(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            key: _renamed_fit(value) if key == "fit" and isinstance(value, str) else _with_renamed_fits(value)
            for key, value in content.items()
        }
    return content


def _renamed_key(key: str) -> str:
    for old, new in OLD_KEYS.items():
        if key == old or key.startswith(old + "."):
            _tell(old, new)
            return new + key[len(old) :]
    return key


def _is_fit(flag: str) -> bool:
    return flag == "--fit" or (flag.startswith("--") and flag.endswith(".fit"))


def _renamed_fit(value: str) -> str:
    if value in OLD_FITS:
        _tell(f"fit {value}", f"fit {OLD_FITS[value]}")
    return OLD_FITS.get(value, value)


@functools.cache
def _tell(old: str, new: str) -> None:
    """Logs a message once in a process, which may read the same config several times."""
    logger.warning("%s is now %s; the old name works until version %s", old, new, END_OF_SUPPORT.get(old, "0.3"))
