"""Measures a pass over one row with each attention kernel, and a pass over rows of several lengths with and without
padding.

The head is applied to one position of each row.

python tests/benchmarks/attention.py [--size 8b]
"""

from __future__ import annotations

import torch
from measure import computing_clock, gpu_peak_gb, interleaved, row, write
from sizes import chosen_size

from unigrpo.models.mmada import MMadaModelLM

KERNELS = ("sdpa", "eager")


def main() -> None:
    size = chosen_size(__doc__ or "")
    models = {kernel: size.build(kernel) for kernel in KERNELS}
    models["eager"].load_state_dict(models["sdpa"].state_dict(), assign=True)  # the models share the weights
    length = size.row_length
    ids = torch.randint(0, 1000, (1, length), device=size.device)
    read = torch.zeros_like(ids, dtype=torch.bool)
    read[:, -1] = True

    @torch.no_grad()
    def run(model: MMadaModelLM) -> None:
        model(ids, positions=read, num_positions=1)

    lengths = [length * quarters // 4 for quarters in (1, 2, 3, 4)]
    mask = torch.arange(length, device=size.device) < torch.tensor(lengths, device=size.device)[:, None]
    rows, first = ids.repeat(len(lengths), 1), mask & (torch.arange(length, device=size.device) == 0)

    @torch.no_grad()
    def run_rows(kernel: str) -> None:
        models["sdpa"].config._attn_implementation = kernel
        models["sdpa"](rows, mask, positions=first, num_positions=len(lengths))

    seconds = interleaved({k: lambda m=m: run(m) for k, m in models.items()}, 3 * size.rounds, computing_clock)
    mixed = interleaved({k: lambda k=k: run_rows(k) for k in ("sdpa", "varlen")}, 3 * size.rounds, computing_clock)
    models["sdpa"].config._attn_implementation = "sdpa"
    write(
        "attention",
        [
            row(f"a pass over {length} tokens, sdpa against eager", seconds["eager"], seconds["sdpa"], "s"),
            row(f"a pass over rows of {lengths} tokens, varlen against sdpa", mixed["sdpa"], mixed["varlen"], "s"),
        ],
        size=size.name,
        parameters=models["sdpa"].num_parameters(),
        tokens_per_second={kernel: round(length / s) for kernel, s in seconds.items()},
        gpu_peak_gb={kernel: gpu_peak_gb(lambda m=m: run(m)) for kernel, m in models.items()},
    )


if __name__ == "__main__":
    main()
