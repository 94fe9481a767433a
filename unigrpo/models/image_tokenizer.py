"""The image tokenizer, which converts pixels to image codes and image codes to pixels."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from unigrpo import CheckpointError
from unigrpo.models.config_check import is_integer, read_config
from unigrpo.models.magvit import GROUPS, Decoder, Encoder, SignQuantizer, quantizer_tables
from unigrpo.models.transformers_output import quiet_saving
from unigrpo.models.weight_files import (
    check_finite,
    check_names,
    first_line,
    give_modes_of_config,
    local_folder,
    read_tensors,
)

PUBLISHED_CLASS = "MAGVITv2"
"""``_class_name`` in the published config.json, which contains no sizes."""
SIZES = {"bits": (1, 24), "channels": (1, 1 << 14), "blocks": (0, 1 << 8)}
"""Smallest and largest value of each size. The largest values are far above those of any image tokenizer."""
IMAGE_BATCH_SIZE = 4
"""Largest number of images in one pass of the network, which limits the memory."""


class ImageTokenizerConfig(PretrainedConfig):
    """Sizes of the tokenizer. The defaults are those of showlab/magvitv2. Lists start at full resolution."""

    model_type = "magvitv2"

    def __init__(
        self,
        num_bits: int = 13,
        stem_channels: int = 128,
        encoder_channels: Sequence[int] = (128, 256, 256, 512, 512),
        encoder_blocks: Sequence[int] = (4, 3, 4, 3, 4),
        decoder_channels: Sequence[int] = (128, 128, 256, 256, 512),
        decoder_blocks: Sequence[int] = (4, 4, 3, 4, 3),
        **kwargs: Any,
    ) -> None:
        _check_sizes("num_bits", [num_bits])
        _check_sizes("stem_channels", [stem_channels])
        sizes = {
            "encoder_channels": encoder_channels,
            "encoder_blocks": encoder_blocks,
            "decoder_channels": decoder_channels,
            "decoder_blocks": decoder_blocks,
        }
        for name, values in sizes.items():
            _check_sizes(name, values)
            if len(values) != len(sizes["encoder_channels"]):
                raise CheckpointError(
                    f"{name} is {values}, expected one for each of encoder_channels {encoder_channels}"
                )
            if "channels" in name and any(value % GROUPS for value in values):
                raise CheckpointError(f"{name} is {values}, expected multiples of {GROUPS}, the groups of a norm")
            setattr(self, name, list(values))
        self.num_bits = num_bits
        self.stem_channels = stem_channels
        super().__init__(**kwargs)


def _check_sizes(name: str, values: Any) -> None:
    low, high = SIZES[name.partition("_")[2]]
    if not isinstance(values, Sequence) or not all(is_integer(size, low, high) for size in values):
        raise CheckpointError(f"{name} is {values!r:.60} in config.json, expected whole numbers from {low} to {high}")


class ImageTokenizer(PreTrainedModel):
    """MAGVIT-v2, which encodes each square of ``downscale`` x ``downscale`` pixels as one code."""

    config_class = ImageTokenizerConfig
    main_input_name = "pixels"
    config: ImageTokenizerConfig

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config.num_bits, config.stem_channels, config.encoder_channels, config.encoder_blocks)
        self.quantize = SignQuantizer(config.num_bits)
        self.decoder = Decoder(config.num_bits, config.decoder_channels, config.decoder_blocks)
        self.post_init()

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves the model as transformers does. The permissions of the files follow the umask."""
        with quiet_saving():
            super().save_pretrained(save_directory, *args, **kwargs)
        give_modes_of_config(Path(save_directory))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.GroupNorm):
            module.reset_parameters()

    @property
    def downscale(self) -> int:
        """Height and width in pixels of the square of one code."""
        return 2 ** (len(self.config.encoder_channels) - 1)

    @property
    def codebook_size(self) -> int:
        """Number of different codes."""
        return 2**self.config.num_bits

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Returns the pixels after encoding and decoding."""
        grid = (pixels.shape[2] // self.downscale, pixels.shape[3] // self.downscale)
        return self.decode(self.encode(pixels), grid)

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B N"]:
        """Returns the ``N = H / downscale * W / downscale`` codes of each image, row by row.

        Args:
            pixels: Images in [-1, 1]; see :func:`unigrpo.data.images.image_pixels`.

        Raises:
            ValueError: The images are not floats, or a side is not a multiple of ``downscale``.
        """
        if pixels.dim() != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
            raise CheckpointError(
                f"pixels are {pixels.dtype} of shape {tuple(pixels.shape)}, expected floats in [-1, 1] of shape "
                "(images, 3, height, width)"
            )
        if pixels.shape[2] % self.downscale or pixels.shape[3] % self.downscale:
            raise CheckpointError(
                f"images are {pixels.shape[2]} pixels high and {pixels.shape[3]} wide, expected multiples of "
                f"{self.downscale}; resize or crop them"
            )
        return torch.cat([self.quantize.codes(self.latents(p)).flatten(1) for p in pixels.split(IMAGE_BATCH_SIZE)])

    def latents(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B bits h w"]:
        """Returns the output of the encoder, before quantization."""
        return self.encoder(pixels.to(self.device, self.dtype))

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "B N"], grid: tuple[int, int] | None = None) -> Float[Tensor, "B 3 H W"]:
        """Returns the pixels of codes. They are about in [-1, 1], and are not clamped.

        Args:
            codes: Codes of each image, row by row.
            grid: Number of rows and columns of codes; None for square images.

        Raises:
            ValueError: The codes do not fill the grid, or a code is outside the codebook.
        """
        num_codes = codes.shape[1]
        rows, columns = grid or (math.isqrt(num_codes),) * 2
        if rows * columns != num_codes:
            raise CheckpointError(
                f"{num_codes} codes do not fill a grid of {rows} rows and {columns} columns; give the image's grid"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise CheckpointError(
                f"codes are in {int(codes.min())}..{int(codes.max())}, expected 0..{self.codebook_size - 1}; token "
                "ids of a language model need Vocabulary.image_codes first"
            )
        maps = codes.to(self.device).unflatten(1, (rows, columns))
        return torch.cat([self.decoder(self.quantize.bits(m).to(self.dtype)) for m in maps.split(IMAGE_BATCH_SIZE)])

    def codes_to_images(self, codes: Int[Tensor, "B N"], grid: tuple[int, int] | None = None) -> list[Image.Image]:
        """Returns the images of codes; see :meth:`decode`."""
        pixels = ((self.decode(codes, grid).float() + 1) / 2).clamp(0, 1) * 255
        arrays = pixels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()  # cut off, as the original does
        return [Image.fromarray(array) for array in arrays]


def load_image_tokenizer(name: str | Path, device: torch.device | str = "cpu") -> ImageTokenizer:
    """Returns the image tokenizer of a folder or Hub name, frozen and in evaluation mode.

    The weights are float32 as in the original, because rounding changes codes.

    Args:
        name: Folder or Hub name in the format of showlab/magvitv2, or as `save_pretrained` writes it.
        device: Device of the weights.

    Raises:
        ValueError: There is no image tokenizer; it has another architecture; a file or tensor is missing or unknown;
            or a tensor has another shape or contains NaN or infinity.
    """
    folder = local_folder(name)
    config = _load_config(folder)
    with torch.device("meta"):
        model = ImageTokenizer(config)
    stored = read_tensors(folder)
    tables = {f"quantize.{key}": table for key, table in quantizer_tables(config.num_bits).items()}
    found = {**tables, **stored}  # the tables follow from the number of bits, so they may be left out
    expected = model.state_dict()
    check_names(folder, expected.keys() - found.keys(), found.keys() - expected.keys())
    for key, tensor in found.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{folder}: {key} is of shape {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}; the "
                "weights belong to an image tokenizer of other sizes"
            )
    for key, table in tables.items():
        if not torch.equal(found[key].to(table.dtype), table):
            raise CheckpointError(
                f"{folder}: {key} orders the bits of a code in another way; use the published tokenizer"
            )
    check_finite(folder, found)
    model.load_state_dict(found | tables, assign=True)
    nn.Module.to(model.requires_grad_(False).eval(), device=device, dtype=torch.float32)
    return model


def _load_config(folder: Path) -> ImageTokenizerConfig:
    try:
        values = read_config(folder)
    except ValueError as error:
        raise CheckpointError(
            f"{folder}: no config.json could be read; give the folder of an image tokenizer ({first_line(error)})"
        ) from error
    kind = values.get("model_type") or values.get("_class_name")
    if kind not in (ImageTokenizerConfig.model_type, PUBLISHED_CLASS):
        raise CheckpointError(
            f"{folder}: the config is of {reprlib.repr(kind)}, expected an image tokenizer, "
            f"{ImageTokenizerConfig.model_type!r} or {PUBLISHED_CLASS!r}"
        )
    values.pop("model_type", None)
    try:
        return ImageTokenizerConfig(**{k: v for k, v in values.items() if not k.startswith("_")})
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except Exception as error:  # transformers checks fields of its own
        raise CheckpointError(f"{folder}: config.json has an invalid value ({first_line(error)})") from error


AutoConfig.register(ImageTokenizerConfig.model_type, ImageTokenizerConfig)
AutoModel.register(ImageTokenizerConfig, ImageTokenizer)
