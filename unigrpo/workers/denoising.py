"""One rank of a pretraining or Mix-CoT stage: it reads and noises its rows, makes the steps, and shows what it can."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from unigrpo.config import DataConfig
from unigrpo.config.corpora import SourceConfig
from unigrpo.config.denoising import MODALITIES, StageConfig
from unigrpo.data.corpora.rows import RowEncoder
from unigrpo.data.stage_rows import CorpusLoader, LoadedSample, StepDataset
from unigrpo.models.image_tokenizer import ImageTokenizer
from unigrpo.models.loading import find_image_tokenizer, load_tokenizer
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt
from unigrpo.rng import keyed_generator
from unigrpo.training.denoising import (
    NoisedRows,
    denoising_update,
    image_noise,
    noised_images,
    noised_texts,
    token_log_probs,
    without_end_padding,
)
from unigrpo.training.optimizer_step import Engine
from unigrpo.workers.generation import TaskSampler
from unigrpo.workers.trained import TrainedWorker


@dataclass(frozen=True, kw_only=True)
class RowLoss:
    """Cross-entropy of one held-out row."""

    modality: str
    nats: float
    """Sum over the counted tokens."""
    num_tokens: int
    mask_ratio: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the model makes of a fixed prompt."""

    prompt: Prompt
    text: str = ""
    """Answer or thoughts."""
    image: np.ndarray | None = None
    """uint8 (H, W, 3), with guidance."""
    image_unguided: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A held-out picture, what the image tokenizer keeps of it, and what the model makes of a partly hidden one."""

    original: np.ndarray
    """uint8 (H, W, 3), as the others."""
    reconstruction: np.ndarray
    prediction: np.ndarray
    """Every hidden code filled in by its most likely value at once."""
    mask_ratio: float


class DenoisingWorker(TrainedWorker):
    """One rank. All ranks call each method together."""

    def __init__(self, config: StageConfig, engine: Engine) -> None:
        """Opens sources and image tokenizer.

        Raises:
            ValueError: A source or the image tokenizer is not as expected.
        """
        tokenizer = load_tokenizer(config.actor.model_name_or_path)
        image_tokenizer = find_image_tokenizer(config.image.tokenizer, config.actor.model_name_or_path)
        if image_tokenizer is not None:
            image_tokenizer.to(engine.device)  # type: ignore[arg-type]
        super().__init__(engine, config.ds.lora, tokenizer, image_tokenizer)
        self._config = config
        if "r2i" in config.modalities:
            engine.model.config.max_text_tokens = config.layout.max_text_tokens  # whoever samples needs these rows
        self._vocabulary = Vocabulary.from_pretrained_parts(engine.model.config, self._tokenizer)
        self._encoder = RowEncoder(self._tokenizer, self._vocabulary, config.layout)
        self._sampler = self._task_sampler()
        self._training = self._open({name: m.sources for name, m in config.modalities.items()})
        held_out = {name: getattr(config.validation, name).sources for name in MODALITIES}
        self._held_out = self._open({name: sources for name, sources in held_out.items() if sources})
        batch_sizes = {name: m.batch_size for name, m in config.modalities.items()}
        self._step_reads = StepDataset(self._training, batch_sizes, engine.rank, engine.world_size)
        self._reads: Iterator[dict[str, list[LoadedSample]]] = iter(())
        self._next_step = -1

    def train_step(self, step: int) -> dict[str, float]:
        """Makes the optimizer step of this number; its data and noise depend on the number alone.

        Returns:
            Losses of the whole batch; of this rank, mask ratios, tokens, samples that were broken, and seconds.

        Raises:
            NonFiniteLossError: See :func:`~unigrpo.training.denoising.denoising_update`.
            ValueError: Too many samples of a source are broken.
        """
        started = time.monotonic()
        reads = self._read_step(step)
        read_seconds = time.monotonic() - started
        batches = {name: self._noised(name, batch, "train") for name, batch in reads.items()}
        coefs = {name: m.loss_coef for name, m in self._config.modalities.items()}
        metrics = denoising_update(self._engine, batches, coefs, self._config.train.micro_batch_size)
        broken = Counter(read.sample.source for batch in reads.values() for read in batch for _ in read.sample.skipped)
        num_tokens = sum(int(rows.token_mask.sum()) for rows in batches.values())
        return {
            **metrics,
            **{f"broken/{name}": float(number) for name, number in broken.items()},
            "tokens/step": float(num_tokens),
            "time/read_seconds": read_seconds,
            "time/update_seconds": time.monotonic() - started - read_seconds,
        }

    @torch.no_grad()
    def row_losses(self, items: Sequence[tuple[str, int]]) -> list[RowLoss]:
        """Cross-entropies of held-out rows (modality, position), with the same noise every time."""
        losses: list[RowLoss] = []
        with self._whole_model() as model:
            for modality, group in itertools.groupby(items, key=lambda item: item[0]):
                reads = self._held_out.read(modality, [position for _, position in group])
                for rows in self._noised(modality, reads, "validation").split(self._config.train.micro_batch_size):
                    nats = -token_log_probs(model, rows, self._engine.device).sum(dim=1).cpu()
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
        """Held-out pictures of t2i at these positions, and what becomes of them."""
        with self._whole_model() as model:
            return self._triptychs(model, positions) if positions else []

    def _triptychs(self, model: PreTrainedModel, positions: Sequence[int]) -> list[Reconstruction]:
        reads = self._held_out.read("t2i", positions)
        rows = self._noised("t2i", reads, "validation")
        pixels = torch.stack([read.pixels for read in reads if read.pixels is not None])
        codes = self._codes(reads)
        image = slice(rows.input_ids.shape[1] - 1 - codes.shape[1], rows.input_ids.shape[1] - 1)
        hidden = torch.zeros_like(rows.is_counted)
        hidden[:, image] = (rows.input_ids == self._vocabulary.mask_id)[:, image]
        device = self._engine.device
        logits = model(
            rows.input_ids.to(device),
            attention_mask=rows.token_mask.to(device),
            positions=hidden.to(device),
            vocab_slice=self._vocabulary.image_slice,
        ).logits
        predicted = codes.masked_scatter(hidden[:, image], logits.argmax(dim=-1).cpu())
        tokenizer = self._needed_image_tokenizer()
        pages = zip(
            ((pixels + 1) / 2).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy(),
            tokenizer.codes_to_images(codes), tokenizer.codes_to_images(predicted), rows.mask_ratio.tolist(),
            strict=True,
        )  # fmt: skip
        return [
            Reconstruction(
                original=original, reconstruction=np.asarray(kept), prediction=np.asarray(made), mask_ratio=ratio
            )
            for original, kept, made, ratio in pages
        ]

    def generate(self, prompts: Sequence[Prompt]) -> list[Sample]:
        """A sample for each fixed prompt, from the same random numbers every time; images also without guidance."""
        with self._whole_model() as model:
            return [self._sample(model, prompt) for prompt in prompts]

    def _sample(self, model: PreTrainedModel, prompt: Prompt) -> Sample:
        validation, sampler = self._config.validation, self._sampler
        image = replace(validation.image, num_image_tokens=self._sampler.num_image_tokens)
        unguided = replace(image, guidance_scale=0.0)
        settings = [image, unguided] if prompt.task in ("t2i", "r2i") else [image]
        drawn = [sampler.draw(model, [prompt], validation.text, one, [self._generator(prompt)])[0] for one in settings]
        pictures = [None if p is None else np.asarray(p) for p in sampler.pictures(drawn)]
        without = pictures[1] if len(pictures) > 1 else None
        return Sample(prompt=prompt, text=sampler.completion(drawn[0]), image=pictures[0], image_unguided=without)

    @contextmanager
    def _whole_model(self) -> Iterator[PreTrainedModel]:
        """The model in evaluation mode."""
        self._engine.model.eval()
        with self._engine.whole_model() as model, self.meter.watch(model):
            yield model

    def _open(self, sources: Mapping[str, Mapping[str, SourceConfig]]) -> CorpusLoader:
        image = self._config.image
        return CorpusLoader(sources, self._config.seed, self._encoder, image.resolution, image.fit)

    def _read_step(self, step: int) -> dict[str, list[LoadedSample]]:
        num_workers = self._config.train.num_loader_workers
        if step != self._next_step:
            self._reads = self._step_reads.steps_from(step, num_workers)
        self._next_step = step + 1
        reads = next(self._reads)
        if num_workers:  # they counted for themselves
            self._step_reads.count(reads)
        return reads

    def _noised(self, modality: str, reads: Sequence[LoadedSample], purpose: str) -> NoisedRows:
        """Rows of one modality with the noise that belongs to their positions."""
        noise = self._config.noise
        codes: Sequence[Tensor | None] = [None] * len(reads)
        generators = [keyed_generator(self._config.seed, purpose, modality, read.position, "noise") for read in reads]
        if reads[0].pixels is not None:
            codes = list(self._codes(reads))
        if modality == "t2i":
            masks = [
                image_noise(self._sampler.num_image_tokens, g, noise.image_schedule, noise.min_image_mask_ratio)
                for g in generators
            ]
            rows = [
                self._encoder.row(
                    read.sample, image_codes=c, is_masked=is_masked, condition_draw=torch.rand(1, generator=g).item()
                )
                for read, c, (is_masked, _), g in zip(reads, codes, masks, generators, strict=True)
            ]
            return noised_images(rows, [ratio for _, ratio in masks])
        rows = [self._encoder.row(read.sample, image_codes=c) for read, c in zip(reads, codes, strict=True)]
        if not noise.train_end_padding:
            rows = [without_end_padding(row, self._vocabulary) for row in rows]
        return noised_texts(rows, generators, self._vocabulary.mask_id)

    def _codes(self, reads: Sequence[LoadedSample]) -> Tensor:
        pixels = torch.stack([read.pixels for read in reads if read.pixels is not None])
        return self._needed_image_tokenizer().encode(pixels.to(self._engine.device)).cpu()

    def _needed_image_tokenizer(self) -> ImageTokenizer:
        if self._image_tokenizer is None:
            raise ValueError("image.tokenizer is empty, but there are images; name the folder of an image tokenizer")
        return self._image_tokenizer

    def _task_sampler(self) -> TaskSampler:
        image = self._config.image
        return TaskSampler(
            tokenizer=self._tokenizer,
            vocabulary=self._vocabulary,
            data=DataConfig(prompt_template=self._config.layout.template),
            image_tokenizer=self._image_tokenizer,
            resolution=image.resolution,
            fit=image.fit,
            max_text_tokens=self._config.layout.max_text_tokens,
        )

    def _generator(self, prompt: Prompt) -> torch.Generator:
        return keyed_generator(self._config.seed, "validation sample", prompt.id)
