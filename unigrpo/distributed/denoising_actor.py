"""The actor of pretraining and Mix-CoT."""

from __future__ import annotations

from unigrpo.distributed.actors import ModelActor, training_engine
from unigrpo.distributed.strategy import UniGRPOStrategy
from unigrpo.stage_config import StageConfig
from unigrpo.workers.denoising import DenoisingWorker


class DenoisingActor(ModelActor):
    """One rank of a stage."""

    def build(self, config: StageConfig, strategy: UniGRPOStrategy) -> DenoisingWorker:
        """The worker on a DeepSpeed engine, with the image tokenizer on the same device."""
        return DenoisingWorker(config, training_engine(config, strategy))
