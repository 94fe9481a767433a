"""Another implementation to compare with: OpenRLHF's losses."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

from unigrpo.distributed import compat


@pytest.fixture(scope="session")
def openrlhf() -> SimpleNamespace:
    """OpenRLHF's own losses: the second implementation. Its modules load only once placeholders are in place."""
    compat.install()
    loss = importlib.import_module("openrlhf.models.loss")
    utils = importlib.import_module("openrlhf.models.utils")
    return SimpleNamespace(
        PolicyLoss=loss.PolicyLoss, aggregate_loss=loss.aggregate_loss, compute_approx_kl=utils.compute_approx_kl
    )
