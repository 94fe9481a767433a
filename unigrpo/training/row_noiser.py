"""From loaded samples to noised rows: image codes, rows of tokens, and the noise that belongs to each position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.config.denoising import NoiseConfig
from unigrpo.data.corpora.dataloader import LoadedSample
from unigrpo.data.corpora.rows import RowEncoder
from unigrpo.data.images import normalized
from unigrpo.models.image_tokenizer import ImageTokenizer
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.rng import keyed_generator
from unigrpo.training.denoising import NoisedRows, image_noise, noised_images, noised_texts, without_end_padding


class RowNoiser:
    """Turns samples of one modality into noised rows. Equal positions have equal noise."""

    def __init__(
        self,
        noise: NoiseConfig,
        seed: int,
        encoder: RowEncoder,
        vocabulary: Vocabulary,
        image_tokenizer: ImageTokenizer | None,
        device: torch.device,
    ) -> None:
        """Sets up the noiser.

        Args:
            noise: Which tokens are masked.
            seed: Seed of the noise.
            encoder: Builds the rows.
            vocabulary: Token ids.
            image_tokenizer: Encodes images; None if no sample has one.
            device: Device of the image tokenizer.
        """
        self._noise, self._seed = noise, seed
        self._encoder, self._vocabulary = encoder, vocabulary
        self._image_tokenizer, self._device = image_tokenizer, device

    @property
    def image_tokenizer(self) -> ImageTokenizer:
        """The image tokenizer.

        Raises:
            ValueError: There is none, but there are images.
        """
        if self._image_tokenizer is None:
            raise ConfigError("image.tokenizer is empty, but there are images; name the folder of an image tokenizer")
        return self._image_tokenizer

    def pixels(self, samples: Sequence[LoadedSample]) -> UInt8[Tensor, "B 3 R R"]:
        """Returns the images of samples, as 8-bit values on the CPU."""
        return torch.stack([sample.pixels for sample in samples if sample.pixels is not None])

    def codes(self, samples: Sequence[LoadedSample]) -> Int[Tensor, "B N"]:
        """Returns the image codes of samples, on the CPU."""
        return self.image_tokenizer.encode(normalized(self.pixels(samples).to(self._device))).cpu()

    def noised(self, modality: str, samples: Sequence[LoadedSample], purpose: str) -> NoisedRows:
        """Returns the rows of samples with the noise of their positions.

        Args:
            modality: Modality of all samples.
            samples: One or more samples.
            purpose: `train` or `validation`, which have different noise at the same position.
        """
        noise = self._noise
        generators = [keyed_generator(self._seed, purpose, modality, s.position, "noise") for s in samples]
        if modality == "t2i":
            codes = self.codes(samples)
            masks = [
                image_noise(codes.shape[1], g, noise.image_schedule, noise.min_image_mask_ratio) for g in generators
            ]
            rows = [
                self._encoder.row(
                    sample.sample,
                    image_codes=c,
                    is_masked=is_masked,
                    condition_uniform=torch.rand(1, generator=g).item(),
                )
                for sample, c, (is_masked, _), g in zip(samples, codes, masks, generators, strict=True)
            ]
            return noised_images(rows, [ratio for _, ratio in masks])
        codes = [None] * len(samples) if samples[0].pixels is None else self.codes(samples)
        rows = [self._encoder.row(sample.sample, image_codes=c) for sample, c in zip(samples, codes, strict=True)]
        if not noise.train_end_padding:
            rows = [without_end_padding(row, self._vocabulary) for row in rows]
        return noised_texts(rows, generators, self._vocabulary.mask_id)
