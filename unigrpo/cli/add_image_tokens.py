"""Add tokens for image codes to a LLaDA checkpoint, so that stage 1.1 can start from it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from unigrpo import ConfigError
from unigrpo.cli.main import run_old_name
from unigrpo.config.checks import valid_seed
from unigrpo.config.parsing import config_from_args, parse


@dataclass(frozen=True, kw_only=True)
class GrowConfig:
    """Settings of ``unigrpo add-image-tokens``."""

    model: str
    """Folder or Hub name of a text-only checkpoint, such as GSAI-ML/LLaDA-8B-Instruct."""
    output: str
    """Folder to write to; it must not exist yet."""
    codebook_size: int = 8192
    """Number of codes of the image tokenizer; the published one has 8192."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the written weights."""
    seed: int = 0
    """Seed of the new rows of the embedding and the output head."""

    def __post_init__(self) -> None:
        if self.codebook_size < 1:
            raise ConfigError(f"codebook_size is {self.codebook_size}; it must be above 0")
        valid_seed("seed", self.seed)
        if Path(self.output).exists():
            raise ConfigError(f"output {self.output!r} exists already; name another folder")


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo add-image-tokens``. Returns the exit status."""
    parser = ArgumentParser(
        prog="unigrpo add-image-tokens", description=__doc__, exit_on_error=False, allow_abbrev=False
    )
    parser.add_class_arguments(GrowConfig)
    config = config_from_args(parse(parser, arguments), GrowConfig)
    first, stop = grow(config)
    sys.stdout.write(f"{config.output}: image codes are the tokens {first} to {stop - 1}\n")
    return 0


def grow(config: GrowConfig) -> tuple[int, int]:
    """Writes the larger checkpoint. Returns the token of the first image code, and the token after the last one."""
    import torch  # noqa: PLC0415  # takes seconds, which --help need not wait for

    from unigrpo.models.checkpoint_io import load_policy, save_policy  # noqa: PLC0415
    from unigrpo.models.image_tokens import add_image_tokens  # noqa: PLC0415
    from unigrpo.models.loading import load_tokenizer  # noqa: PLC0415

    tokenizer = load_tokenizer(config.model, "model")
    model = load_policy(config.model, getattr(torch, config.dtype), "sdpa")
    generator = torch.Generator().manual_seed(config.seed)
    vocabulary = add_image_tokens(model, tokenizer, generator=generator, codebook_size=config.codebook_size)
    save_policy(model, tokenizer, config.output)
    return vocabulary.image_slice


if __name__ == "__main__":
    run_old_name("unigrpo.cli.add_image_tokens", "add-image-tokens")
