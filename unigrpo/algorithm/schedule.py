"""Mask schedules: the fraction of an image that is masked at time t, in training and in sampling."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from unigrpo import ConfigError


def masked_fraction(
    schedule: str, t: Float[Tensor, "*any"], *, start: float = -3.0, end: float = 3.0, tau: float = 1.0
) -> Float[Tensor, "*any"]:
    """Returns the fraction of tokens that are masked at time t, which falls from 1 at t = 0 to 0 at t = 1.

    Args:
        schedule: `cosine`: cos(pi t / 2); `linear`: 1 - t; `pow` with an exponent, such as `pow2` or `pow0.5`:
            1 - t^exponent; `sigmoid`: the part of a sigmoid between ``start`` and ``end``, rescaled to [0, 1].
        t: Time in [0, 1]: a uniform random number in training, the finished fraction of the steps in sampling.
        start: Left end of the sigmoid, before division by ``tau``.
        end: Right end of the sigmoid.
        tau: Width of the sigmoid.

    Raises:
        ValueError: Unknown schedule, or `pow` without a positive exponent.

    Source:
        MaskGIT, arXiv:2202.04200, section 3.3; `sigmoid` of arXiv:2301.10972.
    """
    if schedule == "cosine":
        fraction = torch.cos(t * (math.pi / 2))
    elif schedule == "linear":
        fraction = 1 - t
    elif schedule == "sigmoid":
        low, high = (1 / (1 + math.exp(-x / tau)) for x in (start, end))
        fraction = (high - torch.sigmoid((t * (end - start) + start) / tau)) / (high - low)
    elif schedule.startswith("pow"):
        fraction = 1 - t.pow(_exponent(schedule))
    else:
        raise ConfigError(
            f"mask schedule: no {schedule!r}; choose one of ['cosine', 'linear', 'pow<exponent>', 'sigmoid']"
        )
    return fraction.clamp(0.0, 1.0)


def _exponent(schedule: str) -> float:
    try:
        exponent = float(schedule.removeprefix("pow"))
    except ValueError:
        exponent = 0.0
    if not 0 < exponent < math.inf:
        raise ConfigError(f"mask schedule {schedule!r} needs a positive exponent, as in 'pow2' or 'pow0.5'")
    return exponent
