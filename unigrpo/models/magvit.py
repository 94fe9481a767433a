"""The convolutional encoder and decoder of MAGVIT-v2, with the published parameter names."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

GROUPS = 32
"""Number of groups of every group norm; all channel counts are multiples of it."""


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after a norm and swish, with a shortcut."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2 = _norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        if channels_in != channels:
            self.nin_shortcut = nn.Conv2d(channels_in, channels, 1)
        self.has_shortcut = channels_in != channels

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if self.has_shortcut else x)


class Attention(nn.Module):
    """Attention with one head among all positions of the feature map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        h = self.norm(x)
        query, key, value = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(query, key, value)  # scaled by 1 / sqrt(channels)
        return x + self.proj_out(h.transpose(1, 2).unflatten(2, x.shape[2:]))


class Middle(nn.Module):
    """Blocks at the lowest resolution of the encoder or decoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """Halves height and width. The map is padded with a row and a column of zeros at the bottom and on the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, and the change to the next resolution."""

    def __init__(self, channels_in: int, channels: int, num_blocks: int) -> None:
        super().__init__()
        widths = [channels_in, *[channels] * num_blocks]
        self.block = nn.ModuleList(ResidualBlock(a, b) for a, b in itertools.pairwise(widths))
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        for block in self.block:
            x = block(x)
        for step in (self.downsample, self.upsample):
            x = x if step is None else step(x)
        return x


class Encoder(nn.Module):
    """Maps pixels (B, 3, H, W) to one number per bit of the code (B, bits, H / f, W / f)."""

    def __init__(self, num_bits: int, stem: int, channels: Sequence[int], num_blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, stem, 3, padding=1)
        widths = [stem, *channels]
        self.down = nn.ModuleList(Level(*sizes) for sizes in zip(widths, channels, num_blocks, strict=False))
        for level, width in zip(self.down[:-1], channels, strict=False):
            level.downsample = Downsample(width)
        self.mid = Middle(channels[-1])
        self.norm_out = _norm(channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], num_bits, 3, padding=1)
        self.quant_conv = nn.Conv2d(num_bits, num_bits, 1)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B bits h w"]:
        h = self.conv_in(pixels)
        for level in self.down:
            h = level(h)
        h = self.mid(h)
        return self.quant_conv(self.conv_out(F.silu(self.norm_out(h))))


class Decoder(nn.Module):
    """Maps bits as -1 and 1 (B, bits, h, w) to pixels (B, 3, h * f, w * f). Levels run from the last to the first."""

    def __init__(self, num_bits: int, channels: Sequence[int], num_blocks: Sequence[int]) -> None:
        super().__init__()
        self.post_quant_conv = nn.Conv2d(num_bits, num_bits, 1)
        self.conv_in = nn.Conv2d(num_bits, channels[-1], 3, padding=1)
        self.mid = Middle(channels[-1])
        widths = [*channels[1:], channels[-1]]
        self.up = nn.ModuleList(Level(*sizes) for sizes in zip(widths, channels, num_blocks, strict=True))
        for level, width in zip(self.up[1:], channels[1:], strict=True):
            level.upsample = Upsample(width)
        self.norm_out = _norm(channels[0])
        self.conv_out = nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, bits: Float[Tensor, "B bits h w"]) -> Float[Tensor, "B 3 H W"]:
        h = self.mid(self.conv_in(self.post_quant_conv(bits)))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class SignQuantizer(nn.Module):
    """Quantizer in which the sign of each number is a bit of the code; 0 is negative, and channel 0 is the highest
    bit.

    Source:
        Lookup-free quantisation, arXiv:2310.05737, section 3.
    """

    embedding: Float[Tensor, "codes bits"]
    power_vals: Int[Tensor, " bits"]

    def __init__(self, num_bits: int) -> None:
        super().__init__()
        for name, value in quantizer_tables(num_bits).items():
            self.register_buffer(name, value)

    def codes(self, latents: Float[Tensor, "B bits h w"]) -> Int[Tensor, "B h w"]:
        """Returns the codes of the encoder's output."""
        return ((latents > 0) * self.power_vals[:, None, None]).sum(1)

    def bits(self, codes: Int[Tensor, "B h w"]) -> Float[Tensor, "B bits h w"]:
        """Returns codes as -1 and 1."""
        return self.embedding[codes].permute(0, 3, 1, 2)


def quantizer_tables(num_bits: int) -> dict[str, Shaped[Tensor, "*_"]]:
    """Returns the stored tables: ``embedding`` (2 ** bits, bits) of -1 and 1, and ``power_vals`` (bits,), the bit
    values."""
    powers = 2 ** torch.arange(num_bits - 1, -1, -1)
    bits = (torch.arange(2**num_bits)[:, None] & powers) > 0
    return {"embedding": bits.float() * 2 - 1, "power_vals": powers}
