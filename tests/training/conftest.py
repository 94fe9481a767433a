"""Makes the small random model that tests of inner updates train."""

from __future__ import annotations

import pytest
from training.small_updates import small_model

from unigrpo.models.mmada import MMadaModelLM


@pytest.fixture
def model() -> MMadaModelLM:
    return small_model()
