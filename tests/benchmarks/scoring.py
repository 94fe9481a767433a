"""Compares scoring without gradient with full logits of padded rows: seconds, and peak memory of logits.

python tests/benchmarks/scoring.py [--size 8b]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plain
import torch
from logit_memory import peak_logit_bytes
from measure import computing_clock, gpu_peak_gb, interleaved, row, write
from samples import full_rows, image_sample, run_config, scoring_settings, text_sample
from sizes import Size, chosen_size
from torch import Tensor

from unigrpo.models.mmada import MMadaModelLM
from unigrpo.records import TrainSample
from unigrpo.training.scoring import score

NUM_INNER_UPDATES = 4
BATCH = 4


class Scorer:
    """A model with the interface that the scoring of the workers needs."""

    def __init__(self, model: MMadaModelLM) -> None:
        self.forward: Any = model
        self.device: torch.device = model.device

    def max_over_ranks(self, number: int) -> int:
        return number


def main() -> None:
    size = chosen_size(__doc__ or "")
    model = size.build()
    widths = (model.config.vocab_size, size.vocabulary.codebook_size)
    work = {
        "a text row": [text_sample(size, 0)],
        "an image row": [image_sample(size, 0)],
        "a mixed batch": [text_sample(size, 0), text_sample(size, 1), image_sample(size, 2), image_sample(size, 3)],
    }
    rows, gpu = [], {}
    for name, samples in work.items():

        def ours(samples: Sequence[TrainSample] = samples) -> list[tuple[Tensor, ...]]:
            return score(Scorer(model), run_config(BATCH), scoring_settings(size), [s.rollout for s in samples])

        def plainly(samples: Sequence[TrainSample] = samples) -> Tensor:
            return plain_scores(model, size, samples)

        seconds = interleaved({"plain": plainly, "ours": ours}, 2 * size.rounds, computing_clock)
        same = equality(size, samples, ours(), plainly())
        rows.append(row(f"scoring {name}", seconds["plain"], seconds["ours"], "s", None, same))
        before, now = (peak_logit_bytes(call, widths) / 1e6 for call in (plainly, ours))
        target = 15.0 if name == "an image row" else None
        rows.append(row(f"peak logit memory of scoring {name}", before, now, "MB", target))
        gpu[name] = {"plain": gpu_peak_gb(plainly), "ours": gpu_peak_gb(ours)}
    rows.append(updates_row(model, size, widths))
    write("scoring", rows, size=size.name, row_tokens=size.row_length, gpu_peak_gb=gpu)


def updates_row(model: MMadaModelLM, size: Size, widths: tuple[int, ...]) -> dict[str, Any]:
    """Compares the peak logit memory of scoring all inner updates at once with that of one."""

    def peak(num_updates: int) -> float:
        rollouts = [image_sample(size, number).rollout for number in range(2)]
        settings, config = scoring_settings(size), run_config(BATCH, num_updates)
        return peak_logit_bytes(lambda: score(Scorer(model), config, settings, rollouts), widths) / 1e6

    one, all_of_them = peak(1), peak(NUM_INNER_UPDATES)
    return row(f"peak logit memory of {NUM_INNER_UPDATES} inner updates against 1", one, all_of_them, "MB", 1.0)


@torch.no_grad()
def plain_scores(model: MMadaModelLM, size: Size, samples: Sequence[TrainSample]) -> Tensor:
    """Returns the log-probabilities (B, L) of the first inner update; they are 0 at tokens that are not scored."""
    batch = full_rows(size, samples, model.device)
    return plain.log_likelihood(model, batch, size.vocabulary.mask_id, size.vocabulary.image_slice).cpu()


def equality(size: Size, samples: Sequence[TrainSample], found: Sequence[tuple[Tensor, ...]], expected: Tensor) -> str:
    """Returns the largest difference of the log-probabilities."""
    scored = full_rows(size, samples, expected.device).is_scored
    gap = max(
        (one[0] - other[mask]).abs().max().item() for one, other, mask in zip(found, expected, scored, strict=True)
    )
    if size.dtype == torch.float32 and gap > 1e-4:
        raise AssertionError(f"log-probabilities differ by {gap}")
    return f"log-probabilities within {gap:.0e}"


if __name__ == "__main__":
    main()
