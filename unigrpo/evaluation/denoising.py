"""What a stage looks like from outside: held-out losses by mask ratio, and samples for fixed prompts of all tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from unigrpo.config.denoising import MODALITIES, StageConfig
from unigrpo.records import Prompt
from unigrpo.workers.denoising import DenoisingWorker, Reconstruction, RowLoss, Sample
from unigrpo.workers.group import WorkerGroup

BINS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Borders of the mask-ratio bins."""
NUM_TRIPTYCHS = 8


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """Samples and pictures of one validation."""

    samples: list[Sample] = field(default_factory=list[Sample])
    reconstructions: list[Reconstruction] = field(default_factory=list[Reconstruction])


def validate(
    workers: WorkerGroup, prompts: list[Prompt], config: StageConfig
) -> tuple[dict[str, float], ValidationResult]:
    """Losses on the same rows and noise every time, and samples from the same random numbers.

    Returns:
        ``validation/<modality>_nats_per_token`` over all counted tokens, and ``..._ratio_<low>`` for each bin of mask
        ratios that has a row.
    """
    held_out = [name for name in MODALITIES if getattr(config.validation, name).sources]
    items = [(name, row) for name in held_out for row in range(config.validation.num_rows)]
    metrics = loss_metrics(workers.map(DenoisingWorker.row_losses, items))
    reconstructions: list[Reconstruction] = []
    if "t2i" in held_out and config.validation.num_rows:
        rows = range(min(NUM_TRIPTYCHS, config.validation.num_rows))
        reconstructions = workers.map(DenoisingWorker.reconstructions, rows)
    samples = workers.map(DenoisingWorker.generate, prompts) if prompts else []
    return metrics, ValidationResult(samples=samples, reconstructions=reconstructions)


def loss_metrics(rows: Sequence[RowLoss]) -> dict[str, float]:
    """Mean cross-entropy per counted token, by modality and by bin of mask ratios."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        low = BINS[min(int(np.searchsorted(BINS, row.mask_ratio, side="right")) - 1, len(BINS) - 2)]
        for name in (f"{row.modality}_nats_per_token", f"{row.modality}_nats_per_token_ratio_{low:g}"):
            sums[name][0] += row.nats
            sums[name][1] += row.num_tokens
    return {f"validation/{name}": nats / tokens for name, (nats, tokens) in sorted(sums.items()) if tokens}
