"""UniGRPO: RL post-training for multimodal masked-diffusion language models, on OpenRLHF.

``import unigrpo`` takes milliseconds, because each public name imports its module when it is used for the first time.
After the import, ``AutoConfig``, ``AutoModel`` and ``AutoModelForCausalLM`` of transformers load the models and image
tokenizers of this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"


class ConfigError(ValueError):
    """A setting or a command line is wrong. The message names it, and says what was found and what is expected."""


class DataError(ValueError):
    """A prompt, an image or a corpus is wrong. The message names the file and the line."""


class CheckpointError(ValueError):
    """A model folder or a checkpoint is wrong. The message names the folder and what to do."""


if TYPE_CHECKING:
    from rewards.base import Reward, RewardInput
    from rewards.loading import load_reward
    from unigrpo.algorithm.advantage.base import group_advantages, load_advantage
    from unigrpo.algorithm.likelihood.base import load_estimator
    from unigrpo.algorithm.objective.base import load_objective
    from unigrpo.batches import TrainBatch, TrajectoryBatch
    from unigrpo.config import (
        DataConfig,
        ImageSamplingConfig,
        RewardConfig,
        RewardTermConfig,
        RolloutConfig,
        RunConfig,
        TextSamplingConfig,
    )
    from unigrpo.config.denoising import StageConfig
    from unigrpo.data.prompts import load_prompts
    from unigrpo.library.policy import Policy, Sample
    from unigrpo.library.trainer import LocalTrainer
    from unigrpo.records import Prompt, Rollout, SampleRequest, TrainSample
    from unigrpo.training.scoring import score
    from unigrpo.training.scoring_settings import ScoringSettings
    from unigrpo.training.views import ViewSampler

_MODULES = {
    "DataConfig": "unigrpo.config",
    "ImageSamplingConfig": "unigrpo.config",
    "LocalTrainer": "unigrpo.library.trainer",
    "Policy": "unigrpo.library.policy",
    "Prompt": "unigrpo.records",
    "Reward": "rewards.base",
    "RewardConfig": "unigrpo.config",
    "RewardInput": "rewards.base",
    "RewardTermConfig": "unigrpo.config",
    "Rollout": "unigrpo.records",
    "RolloutConfig": "unigrpo.config",
    "RunConfig": "unigrpo.config",
    "Sample": "unigrpo.library.policy",
    "SampleRequest": "unigrpo.records",
    "ScoringSettings": "unigrpo.training.scoring_settings",
    "StageConfig": "unigrpo.config.denoising",
    "TextSamplingConfig": "unigrpo.config",
    "TrainBatch": "unigrpo.batches",
    "TrainSample": "unigrpo.records",
    "TrajectoryBatch": "unigrpo.batches",
    "ViewSampler": "unigrpo.training.views",
    "group_advantages": "unigrpo.algorithm.advantage.base",
    "load_advantage": "unigrpo.algorithm.advantage.base",
    "load_estimator": "unigrpo.algorithm.likelihood.base",
    "load_objective": "unigrpo.algorithm.objective.base",
    "load_prompts": "unigrpo.data.prompts",
    "load_reward": "rewards.loading",
    "score": "unigrpo.training.scoring",
}
"""The module of each public name that is imported on first use."""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataConfig",
    "DataError",
    "ImageSamplingConfig",
    "LocalTrainer",
    "Policy",
    "Prompt",
    "Reward",
    "RewardConfig",
    "RewardInput",
    "RewardTermConfig",
    "Rollout",
    "RolloutConfig",
    "RunConfig",
    "Sample",
    "SampleRequest",
    "ScoringSettings",
    "StageConfig",
    "TextSamplingConfig",
    "TrainBatch",
    "TrainSample",
    "TrajectoryBatch",
    "ViewSampler",
    "__version__",
    "group_advantages",
    "load_advantage",
    "load_estimator",
    "load_objective",
    "load_prompts",
    "load_reward",
    "score",
]


def __getattr__(name: str) -> Any:
    """Imports a public name on its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'unigrpo' has no attribute {name!r}")
    globals()[name] = found = getattr(importlib.import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


# At the end, because it imports a package of this one.
from unigrpo.models.auto_classes import register_when_looked_up  # noqa: E402

register_when_looked_up()
