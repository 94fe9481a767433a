"""Every setting of a run as frozen dataclasses. Wrong values fail on construction; nothing changes a config after
start.

A dotted flag is the path of a field: ``--algo.kl.init_coef 0.02``. Names are OpenRLHF's where the concept is the same.
"""

from unigrpo.config.algo import (
    AdvantageConfig,
    AlgoConfig,
    GroupFilterConfig,
    KLConfig,
    LikelihoodConfig,
    MaskRatioConfig,
    ObjectiveConfig,
    ReferenceConfig,
    TaskConfig,
)
from unigrpo.config.base import BaseRunConfig, CheckpointConfig, LoggerConfig
from unigrpo.config.data import (
    IMAGE_OUTPUT_TASKS,
    RESPONSE_SPANS,
    TASKS,
    DataConfig,
    Fit,
    ImageConfig,
    PromptFileConfig,
    PromptFiles,
    PromptTemplate,
    prompt_files,
)
from unigrpo.config.model import ActorConfig, AdamConfig, DeepSpeedConfig, LoRAConfig, RefConfig
from unigrpo.config.reward import RewardConfig, RewardTermConfig
from unigrpo.config.rollout import (
    ImageSamplingConfig,
    RolloutConfig,
    TextSamplingConfig,
    check_image_steps,
    check_text_steps,
)
from unigrpo.config.unigrpo import EvalConfig, RunConfig, TrainConfig

__all__ = [
    "IMAGE_OUTPUT_TASKS",
    "RESPONSE_SPANS",
    "TASKS",
    "ActorConfig",
    "AdamConfig",
    "AdvantageConfig",
    "AlgoConfig",
    "BaseRunConfig",
    "CheckpointConfig",
    "DataConfig",
    "DeepSpeedConfig",
    "EvalConfig",
    "Fit",
    "GroupFilterConfig",
    "ImageConfig",
    "ImageSamplingConfig",
    "KLConfig",
    "LikelihoodConfig",
    "LoRAConfig",
    "LoggerConfig",
    "MaskRatioConfig",
    "ObjectiveConfig",
    "PromptFileConfig",
    "PromptFiles",
    "PromptTemplate",
    "RefConfig",
    "ReferenceConfig",
    "RewardConfig",
    "RewardTermConfig",
    "RolloutConfig",
    "RunConfig",
    "TaskConfig",
    "TextSamplingConfig",
    "TrainConfig",
    "check_image_steps",
    "check_text_steps",
    "prompt_files",
]
