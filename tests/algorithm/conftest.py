"""The losses of OpenRLHF, with which tests compare."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

from unigrpo.distributed import compat


@pytest.fixture(scope="session")
def openrlhf() -> SimpleNamespace:
    """Returns the loss functions of OpenRLHF. Its modules need the placeholders."""
    compat.install()
    loss = importlib.import_module("openrlhf.models.loss")
    utils = importlib.import_module("openrlhf.models.utils")
    return SimpleNamespace(
        PolicyLoss=loss.PolicyLoss, aggregate_loss=loss.aggregate_loss, compute_approx_kl=utils.compute_approx_kl
    )
