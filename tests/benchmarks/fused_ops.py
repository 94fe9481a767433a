"""Compares passes with and without ``ds.compile``, which fuses the operations between the matrix products.

python tests/benchmarks/fused_ops.py [--size 8b]

The seconds of the compilation are not counted, but are in the results.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from measure import computing_clock, gpu_peak_gb, interleaved, row, write
from sizes import Size, chosen_size
from torch import Tensor

from unigrpo.models.fused_ops import FusedOps, compiled
from unigrpo.models.mmada import MMadaModelLM

NUM_ROWS = 4
WAYS = {"plain": FusedOps, "fused": compiled}


def main() -> None:
    size = chosen_size(__doc__ or "")
    model = size.build()
    if size.name != "small":
        model.gradient_checkpointing_enable()
    ids = torch.randint(0, 1000, (NUM_ROWS, size.row_length), device=size.device)

    def run(way: str, *, backward: bool) -> Tensor:
        model.set_fused_ops(WAYS[way]())
        return one_pass(model.train(backward), ids, backward=backward)

    started = time.perf_counter()
    first = {backward: run("fused", backward=backward) for backward in (False, True)}
    compiling = time.perf_counter() - started
    rows, peaks = [], {}
    for backward, what in ((False, "a forward pass"), (True, "forward and backward pass")):
        calls: dict[str, Callable[[], Tensor]] = {
            way: lambda way=way, backward=backward: run(way, backward=backward) for way in WAYS
        }
        seconds = interleaved(calls, 3 * size.rounds, computing_clock)
        same = equality(size, calls["plain"](), first[backward])
        rows.append(row(f"{what} of {ids.numel()} tokens, fused", seconds["plain"], seconds["fused"], "s", equal=same))
        peaks[what] = {way: gpu_peak_gb(call) for way, call in calls.items()}
    write("elementwise", rows, size=size.name, seconds_of_the_first_passes=round(compiling, 1), gpu_peak_gb=peaks)


def one_pass(model: MMadaModelLM, ids: Tensor, *, backward: bool) -> Tensor:
    """Returns the hidden state of the last position of each row, or the gradient of the first norm."""
    with torch.set_grad_enabled(backward):
        out = model(ids, output_hidden_states=True, positions=torch.zeros_like(ids, dtype=torch.bool), num_positions=0)
        states = out.hidden_states[-1]
        if not backward:
            return states[:, -1]
        states.float().square().mean().backward()
        weight = model.transformer.blocks[0].attn_norm.weight  # type: ignore[union-attr]
        gradient = weight.grad
        model.zero_grad(set_to_none=True)
        return gradient  # type: ignore[return-value]


def equality(size: Size, expected: Tensor, found: Tensor) -> str:
    """Returns the largest difference as a fraction of the largest value."""
    gap = ((found - expected).abs().max() / expected.abs().max()).item()
    if size.dtype == torch.float32 and gap > 1e-4:
        raise AssertionError(f"results differ by {gap} of the largest")
    return f"within {gap:.0e} of the largest"


if __name__ == "__main__":
    main()
