"""One rank of a pretraining or Mix-CoT stage, which reads and masks its rows and makes the optimizer steps."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from unigrpo.config.corpora import SourceConfig
from unigrpo.config.denoising import StageConfig
from unigrpo.data.corpora.dataloader import CorpusLoader, StepDataset, StepLoader
from unigrpo.data.corpora.rows import RowEncoder
from unigrpo.models.loading import find_image_tokenizer, load_tokenizer
from unigrpo.models.sampling_defaults import SamplingDefaults
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.training.denoising import denoising_update
from unigrpo.training.optimizer_step import Engine
from unigrpo.training.row_noiser import RowNoiser
from unigrpo.workers.trained import TrainedWorker


class DenoisingWorker(TrainedWorker):
    """One rank, which trains on its rows. All ranks call each method together."""

    def __init__(self, config: StageConfig, engine: Engine) -> None:
        """Opens the sources and the image tokenizer.

        Raises:
            ValueError: A source or the image tokenizer is not as expected.
        """
        name = config.actor.model_name_or_path
        tokenizer = load_tokenizer(name)
        image_tokenizer = find_image_tokenizer(config.image.tokenizer, name, engine.device)
        super().__init__(engine, config.ds.lora, tokenizer, image_tokenizer, SamplingDefaults.of_run(config))
        self._config = config
        self.vocabulary = Vocabulary.from_pretrained_parts(engine.model.config, tokenizer)
        self._encoder = RowEncoder(tokenizer, self.vocabulary, config.layout)
        self.noiser = RowNoiser(
            config.noise, config.seed, self._encoder, self.vocabulary, image_tokenizer, engine.device
        )
        self.corpus = self.open_corpus({name: m.sources for name, m in config.modalities.items()})
        batch_sizes = {name: m.batch_size for name, m in config.modalities.items()}
        dataset = StepDataset(self.corpus, batch_sizes, engine.rank, engine.world_size)
        self._steps = StepLoader(dataset, config.train.num_loader_workers)

    def open_corpus(self, sources: Mapping[str, Mapping[str, SourceConfig]]) -> CorpusLoader:
        """Opens sources by modality and name. Raises ValueError if one is not as expected."""
        image = self._config.image
        return CorpusLoader(sources, self._config.seed, self._encoder, image.resolution, image.fit)

    def train_step(self, step: int) -> dict[str, float]:
        """Makes the optimizer step of this number. Its data and noise depend on the number alone.

        Returns:
            Losses of the whole batch; and for this rank mask ratios, tokens, samples that could not be used, and
            seconds.

        Raises:
            NonFiniteLossError: See :func:`~unigrpo.training.denoising.denoising_update`.
            ValueError: Too many samples of a source cannot be used.
        """
        started = time.monotonic()
        samples = self._steps.at(step)
        read_seconds = time.monotonic() - started
        batches = {name: self.noiser.noised(name, batch, "train") for name, batch in samples.items()}
        coefs = {name: m.loss_coef for name, m in self._config.modalities.items()}
        metrics = denoising_update(self._engine, batches, coefs, self._config.train.micro_batch_size)
        broken = Counter(one.sample.source for batch in samples.values() for one in batch for _ in one.sample.skipped)
        num_tokens = sum(int(rows.token_mask.sum()) for rows in batches.values())
        return {
            **metrics,
            **{f"broken/{name}": float(number) for name, number in broken.items()},
            "tokens/step": float(num_tokens),
            "time/read_seconds": read_seconds,
            "time/update_seconds": time.monotonic() - started - read_seconds,
        }
