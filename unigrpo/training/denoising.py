"""The optimizer step of pretraining and Mix-CoT: sub-batches of one modality each, with their own losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo.algorithm.denoising import (
    denoising_loss,
    image_mask,
    image_mask_ratio,
    labelled_mean_weights,
    likelihood_bound_weights,
    text_mask,
    text_mask_probability,
)
from unigrpo.data.layouts import IGNORED, TrainingRow
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.training.optimizer_step import Engine, NonFiniteLossError


@dataclass(frozen=True, kw_only=True)
class NoisedRows:
    """B rows of one modality, padded on the right to L."""

    input_ids: Int[Tensor, "B L"]
    """Token ids with masks."""
    token_mask: Bool[Tensor, "B L"]
    targets: Int[Tensor, "B L"]
    """The clean tokens; any value where ``is_counted`` is false."""
    is_counted: Bool[Tensor, "B L"]
    """Tokens whose cross-entropy is in the loss."""
    mask_ratio: Float[Tensor, " B"]
    """Fraction of a row's tokens that are masked, or the probability of masking one."""
    answer_length: Int[Tensor, " B"]
    """Number of tokens that may be masked, in each row."""
    is_labelled_mean: bool
    """Whether the loss is the plain mean over counted tokens (t2i), or the likelihood bound (all others)."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def split(self, size: int) -> list[NoisedRows]:
        """Consecutive parts of ``size`` rows; the last may be shorter."""
        columns = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        starts = range(0, len(self), size)
        return [replace(self, **{name: v[start : start + size] for name, v in columns.items()}) for start in starts]


@dataclass(frozen=True, kw_only=True)
class LossCounts:
    """Divisors of the losses of a modality: counts of the whole batch over all ranks."""

    num_rows: float
    num_labelled_tokens: float


def image_noise(
    num_tokens: int, generator: torch.Generator, schedule: str, min_ratio: float
) -> tuple[Bool[Tensor, " N"], float]:
    """Returns the codes of one t2i image that are masked, and the requested fraction."""
    ratio = image_mask_ratio(torch.rand(1, generator=generator), schedule, min_ratio=min_ratio)
    return image_mask(ratio, torch.rand(1, num_tokens, generator=generator))[0], ratio.item()


def noised_images(rows: Sequence[TrainingRow], ratios: Sequence[float]) -> NoisedRows:
    """Rows of t2i, whose codes are masked already; the tokens on either side of an image count, as MMaDA trains."""
    token_ids, token_mask = _stacked(rows)
    labels = torch.stack([row.labels for row in rows])
    image = ~torch.stack([row.prompt_mask for row in rows])
    near = image.clone()
    near[:, :-1] |= image[:, 1:]
    near[:, 1:] |= image[:, :-1]
    is_counted = (labels != IGNORED) & near
    return NoisedRows(
        input_ids=token_ids,
        token_mask=token_mask,
        targets=labels.clamp(min=0),
        is_counted=is_counted,
        mask_ratio=torch.tensor(ratios),
        answer_length=image.sum(dim=1),
        is_labelled_mean=True,
    )


def without_end_padding(row: TrainingRow, vocabulary: Vocabulary) -> TrainingRow:
    """The row with everything after the first end-of-text of its filled-up text taken for padding."""
    is_end = row.token_ids == vocabulary.end_of_text_id
    is_fill = is_end & torch.cat([torch.tensor([False]), is_end[:-1]])
    return replace(row, token_mask=row.token_mask & ~is_fill)


def noised_texts(rows: Sequence[TrainingRow], generators: Sequence[torch.Generator], mask_id: int) -> NoisedRows:
    """Rows of the other modalities: what is no prompt is masked token by token, with one probability per row.

    Args:
        rows: Clean rows of one length L.
        generators: One per row.
        mask_id: The mask token.
    """
    token_ids, token_mask = _stacked(rows)
    eligible = ~torch.stack([row.prompt_mask for row in rows]) & token_mask
    probability = text_mask_probability(torch.cat([torch.rand(1, generator=g) for g in generators]))
    draws = torch.stack([torch.rand(token_ids.shape[1], generator=g) for g in generators])
    is_masked = text_mask(probability, draws, eligible)
    return NoisedRows(
        input_ids=token_ids.masked_fill(is_masked, mask_id),
        token_mask=token_mask,
        targets=token_ids,
        is_counted=is_masked,
        mask_ratio=probability,
        answer_length=eligible.sum(dim=1),
        is_labelled_mean=False,
    )


def token_weights(rows: NoisedRows, counts: LossCounts) -> Float[Tensor, "B L"]:
    """Returns the weight of each token's cross-entropy in the loss of its modality over the whole batch."""
    if rows.is_labelled_mean:
        return labelled_mean_weights(rows.is_counted, num_labelled_tokens=counts.num_labelled_tokens)
    return likelihood_bound_weights(
        rows.is_counted, rows.mask_ratio, rows.answer_length, num_rows=max(counts.num_rows, 1)
    )


def token_log_probs(forward: Callable[..., Any], rows: NoisedRows, device: torch.device) -> Float[Tensor, "B L"]:
    """Returns the log-probabilities (nats) of the counted tokens; 0 elsewhere."""
    counted = rows.is_counted.to(device)
    out = forward(
        rows.input_ids.to(device),
        attention_mask=None if rows.token_mask.all() else rows.token_mask.to(device),
        positions=counted,
        targets=rows.targets.to(device)[counted],
    )
    return torch.zeros(counted.shape, device=device).masked_scatter(counted, out.log_probs)


def denoising_update(
    engine: Engine, batches: Mapping[str, NoisedRows], coefs: Mapping[str, float], micro_batch_size: int
) -> dict[str, float]:
    """Makes one optimizer step on this rank's rows of every modality.

    Args:
        engine: The model and its optimizer.
        batches: This rank's rows by modality, the same modalities and numbers of rows on every rank.
        coefs: Factor of each modality's loss.
        micro_batch_size: Rows of one forward and backward pass.

    Returns:
        ``loss/total``, ``loss/<modality>`` (nats, of the whole batch), ``mask_ratio/<modality>``, ``grad_norm`` and
        ``learning_rate``.

    Raises:
        NonFiniteLossError: A loss or the gradient norm was not finite; the weights are unchanged.
    """
    engine.model.train()
    counts = {name: _counts(engine, rows) for name, rows in batches.items()}
    sums = {name: torch.zeros((), dtype=torch.float64) for name in batches}
    rate = engine.learning_rate()
    for name, rows in batches.items():
        for part in rows.split(micro_batch_size):
            weight = token_weights(part, counts[name]).to(engine.device)
            loss = denoising_loss(token_log_probs(engine.forward, part, engine.device), weight)
            engine.backward(coefs[name] * loss)
            sums[name] += loss.detach().double().cpu()
    losses = dict(zip(sums, engine.all_reduce_sum(torch.stack(list(sums.values()))).tolist(), strict=True))
    if not all(math.isfinite(loss) for loss in losses.values()):
        raise NonFiniteLossError(f"the losses {losses} are not all finite; this update was not made")
    norm = engine.step()
    if not math.isfinite(norm):
        raise NonFiniteLossError(f"the gradient norm is {norm} (losses {losses}); this update was not made")
    ratios = {f"mask_ratio/{name}": rows.mask_ratio.mean().item() for name, rows in batches.items()}
    return {
        "loss/total": sum(coefs[name] * loss for name, loss in losses.items()),
        **{f"loss/{name}": loss for name, loss in losses.items()},
        **ratios,
        "grad_norm": norm,
        "learning_rate": rate,
    }


def _counts(engine: Engine, rows: NoisedRows) -> LossCounts:
    own = torch.tensor([len(rows), int(rows.is_counted.sum())], dtype=torch.float64)
    num_rows, num_tokens = engine.all_reduce_sum(own).tolist()
    return LossCounts(num_rows=num_rows, num_labelled_tokens=num_tokens)


def _stacked(rows: Sequence[TrainingRow]) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    return torch.stack([row.token_ids for row in rows]), torch.stack([row.token_mask for row in rows])
