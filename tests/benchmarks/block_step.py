"""Compares a step of a block with the dual cache with and without layers that torch.compile compiles.

python tests/benchmarks/block_step.py [--size 8b]
"""

from __future__ import annotations

import time

import torch
from measure import computing_clock, interleaved, row, write
from sizes import Size, chosen_size
from torch import Tensor

from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.sampling.cache import KeyValueCache

ROWS = 16
WAYS = {"eager": False, "compiled": True}


class BlockStep:
    """A pass of a block after its first one, which computes only the tokens of the block; they attend to whole
    rows."""

    def __init__(self, size: Size, *, is_compiled: bool) -> None:
        self.model: MMadaModelLM = size.build()
        self.block = size.text.block_length
        self.start = size.text_prompts[0]
        tokens = torch.randint(100, 1000, (ROWS, self.start + size.text.max_new_tokens), device=size.device)
        self.cache = KeyValueCache()
        positions = torch.ones(ROWS, self.block, dtype=torch.bool, device=size.device)
        self.arguments = {"positions": positions, "num_positions": positions.numel(), "cache": self.cache}
        self.tokens = tokens[:, self.start : self.start + self.block].contiguous()
        with torch.no_grad():
            everywhere = torch.ones_like(tokens, dtype=torch.bool)
            self.model(tokens, positions=everywhere, num_positions=0, cache=self.cache)
        self.cache.first = self.start
        if is_compiled:
            for layer in self.model.transformer.blocks:
                layer.compile(dynamic=True)

    @torch.no_grad()
    def run(self) -> Tensor:
        """Returns the logits of the block."""
        return self.model(self.tokens, **self.arguments).logits


def main() -> None:
    size = chosen_size(__doc__ or "")
    steps = {way: BlockStep(size, is_compiled=is_compiled) for way, is_compiled in WAYS.items()}
    started = time.monotonic()
    gap = (steps["compiled"].run() - steps["eager"].run()).abs().max().item()
    first = time.monotonic() - started
    seconds = interleaved({way: step.run for way, step in steps.items()}, 10 * size.rounds, computing_clock)
    what = f"a step of {ROWS} blocks of {size.text.block_length} tokens, layers compiled"
    rows = [row(what, seconds["eager"], seconds["compiled"], "s", None, f"logits within {gap:.0e}")]
    write("block_step", rows, size=size.name, first_call_seconds=round(first, 1))


if __name__ == "__main__":
    main()
