"""Validation of a stage: held-out losses by mask ratio, reconstructions, and samples for fixed prompts."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedModel

from unigrpo.config import DataConfig
from unigrpo.config.denoising import MODALITIES, StageConfig
from unigrpo.records import Prompt
from unigrpo.rng import keyed_generator
from unigrpo.training.denoising import token_log_probs
from unigrpo.training.optimizer_step import Engine
from unigrpo.workers.denoising import DenoisingWorker
from unigrpo.workers.generation import TaskSampler
from unigrpo.workers.group import WorkerGroup

BINS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Edges of the mask-ratio bins."""
NUM_RECONSTRUCTIONS = 8


@dataclass(frozen=True, kw_only=True)
class RowLoss:
    """The cross-entropy of one held-out row."""

    modality: str
    nats: float
    """Sum of the cross-entropies of the counted tokens, nats."""
    num_tokens: int
    mask_ratio: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the model generates for a fixed prompt."""

    prompt: Prompt
    text: str = ""
    """Answer or thoughts."""
    image: np.ndarray | None = None
    """Image that was generated with guidance, uint8 (H, W, 3)."""
    image_unguided: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A held-out image, its reconstruction by the image tokenizer, and the model's prediction from partly masked
    codes."""

    original: np.ndarray
    """The original image. All three images are uint8 (H, W, 3)."""
    reconstruction: np.ndarray
    prediction: np.ndarray
    """The image in which every masked code is replaced by its most likely value, all at once."""
    mask_ratio: float


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """Samples and images of one validation."""

    samples: list[Sample]
    reconstructions: list[Reconstruction]


def validate(
    workers: WorkerGroup, prompts: list[Prompt], config: StageConfig
) -> tuple[dict[str, float], ValidationResult]:
    """Measures held-out losses and generates samples. Every validation uses the same rows, masks and random numbers.

    Args:
        workers: Workers of the class :class:`StageEvaluator`.
        prompts: Fixed prompts of all tasks.
        config: Config of the stage.

    Returns:
        The metric ``validation/<modality>_nats_per_token``, which is the mean over all counted tokens, and the metric
        ``..._ratio_<low>`` for each bin of mask ratios that contains a row.
    """
    held_out = [name for name in MODALITIES if getattr(config.validation, name).sources]
    items = [(name, row) for name in held_out for row in range(config.validation.num_rows)]
    metrics = loss_metrics(workers.map(StageEvaluator.row_losses, items))
    reconstructions: list[Reconstruction] = []
    if "t2i" in held_out and config.validation.num_rows:
        rows = range(min(NUM_RECONSTRUCTIONS, config.validation.num_rows))
        reconstructions = workers.map(StageEvaluator.reconstructions, rows)
    samples = workers.map(StageEvaluator.generate, prompts) if prompts else []
    return metrics, ValidationResult(samples=samples, reconstructions=reconstructions)


def loss_metrics(rows: Sequence[RowLoss]) -> dict[str, float]:
    """Returns the mean cross-entropy per counted token, by modality and by bin of mask ratios."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        low = BINS[min(int(np.searchsorted(BINS, row.mask_ratio, side="right")) - 1, len(BINS) - 2)]
        for name in (f"{row.modality}_nats_per_token", f"{row.modality}_nats_per_token_ratio_{low:g}"):
            sums[name][0] += row.nats
            sums[name][1] += row.num_tokens
    return {f"validation/{name}": nats / tokens for name, (nats, tokens) in sorted(sums.items()) if tokens}


class StageEvaluator(DenoisingWorker):
    """One rank of a stage that also measures held-out rows and generates samples."""

    def __init__(self, config: StageConfig, engine: Engine) -> None:
        """Opens the sources, including the held-out ones, and the image tokenizer.

        Raises:
            ValueError: A source or the image tokenizer is not as expected.
        """
        super().__init__(config, engine)
        held_out = {name: getattr(config.validation, name).sources for name in MODALITIES}
        self._held_out = self.open_corpus({name: sources for name, sources in held_out.items() if sources})
        self._sampler = TaskSampler(
            tokenizer=self._tokenizer,
            vocabulary=self.vocabulary,
            data=DataConfig(prompt_template=config.layout.template),
            image_tokenizer=self._image_tokenizer,
            resolution=config.image.resolution,
            fit=config.image.fit,
            max_text_tokens=config.layout.max_text_tokens,
        )

    @torch.no_grad()
    def row_losses(self, items: Sequence[tuple[str, int]]) -> list[RowLoss]:
        """Returns the cross-entropies of held-out rows (modality, position), with the same noise every time."""
        losses: list[RowLoss] = []
        with self._evaluated_model() as model:
            for modality, group in itertools.groupby(items, key=lambda item: item[0]):
                samples = self._held_out.read(modality, [position for _, position in group])
                noised = self.noiser.noised(modality, samples, "validation")
                for rows in noised.split(self._config.train.micro_batch_size):
                    nats = -token_log_probs(model, rows, self.device).sum(dim=1).cpu()
                    losses += [
                        RowLoss(
                            modality=modality,
                            nats=nats[i].item(),
                            num_tokens=int(rows.is_counted[i].sum()),
                            mask_ratio=rows.mask_ratio[i].item(),
                        )
                        for i in range(len(rows))
                    ]
        return losses

    @torch.no_grad()
    def reconstructions(self, positions: Sequence[int]) -> list[Reconstruction]:
        """Returns the held-out images of t2i at these positions with their reconstructions and predictions."""
        with self._evaluated_model() as model:  # all ranks enter, even one without a position
            return self._reconstructed(model, positions) if positions else []

    def _reconstructed(self, model: PreTrainedModel, positions: Sequence[int]) -> list[Reconstruction]:
        samples = self._held_out.read("t2i", positions)
        rows = self.noiser.noised("t2i", samples, "validation")
        pixels, codes = self.noiser.pixels(samples), self.noiser.codes(samples)
        image = slice(rows.input_ids.shape[1] - 1 - codes.shape[1], rows.input_ids.shape[1] - 1)
        masked = torch.zeros_like(rows.is_counted)
        masked[:, image] = (rows.input_ids == self.vocabulary.mask_id)[:, image]
        logits = model(
            rows.input_ids.to(self.device),
            attention_mask=rows.token_mask.to(self.device),
            positions=masked.to(self.device),
            vocab_slice=self.vocabulary.image_slice,
        ).logits
        predicted = codes.masked_scatter(masked[:, image], logits.argmax(dim=-1).cpu())
        decode = self.noiser.image_tokenizer.codes_to_images
        originals = pixels.permute(0, 2, 3, 1).numpy()
        images = zip(originals, decode(codes), decode(predicted), rows.mask_ratio.tolist(), strict=True)
        return [
            Reconstruction(
                original=original, reconstruction=np.asarray(kept), prediction=np.asarray(made), mask_ratio=ratio
            )
            for original, kept, made, ratio in images
        ]

    def generate(self, prompts: Sequence[Prompt]) -> list[Sample]:
        """Returns a sample for each fixed prompt, from the same random numbers every time.

        Images are generated with and without guidance.
        """
        with self._evaluated_model() as model:
            return [self._sample(model, prompt) for prompt in prompts]

    def _sample(self, model: PreTrainedModel, prompt: Prompt) -> Sample:
        validation, sampler = self._config.validation, self._sampler
        image = replace(validation.image, num_image_tokens=sampler.num_image_tokens)
        settings = [image]
        if prompt.task in ("t2i", "r2i"):
            settings.append(replace(image, guidance_scale=0.0))
        generators = [keyed_generator(self._config.seed, "validation sample", prompt.id) for _ in settings]
        samples = [
            sampler.generate(model, [prompt], validation.text, one, [generator])[0]
            for one, generator in zip(settings, generators, strict=True)
        ]
        images = [None if one is None else np.asarray(one) for one in sampler.images(samples)]
        unguided = images[1] if len(images) > 1 else None
        return Sample(prompt=prompt, text=sampler.completion(samples[0]), image=images[0], image_unguided=unguided)

    @contextmanager
    def _evaluated_model(self) -> Iterator[PreTrainedModel]:
        """Yields the whole model in evaluation mode."""
        self._engine.model.eval()
        with self._engine.whole_model() as model, self.meter.watch(model):
            yield model
