"""Compares one update with an update from full logits and rows of one length: seconds, gradients, and FLOP/s.

python tests/benchmarks/update.py [--size 8b]

With ``--size 8b``, neither side has an optimizer, because its states do not fit on one GPU. Its time is the same for
both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import plain
import torch
from logit_memory import peak_logit_bytes
from measure import computing_clock, gpu_peak_gb, interleaved, row, write
from samples import full_rows, image_sample, run_config, scoring_settings, text_sample
from sizes import Size, chosen_size
from torch import Tensor
from transformers import PreTrainedModel

from unigrpo.config import ActorConfig
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.records import TrainSample
from unigrpo.training.batching import micro_batches
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.training.scoring import score
from unigrpo.training.unigrpo import unigrpo_updates

CLIP = 0.2


class GradientEngine(LocalEngine):
    """An engine whose step drops the gradients, and keeps a copy of them if ``gradients`` is not None."""

    gradients: dict[str, Tensor] | None = None

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: PreTrainedModel = model
        self.device: torch.device = model.device

    def step(self) -> float:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if self.gradients is not None:
            self.gradients = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        self.model.zero_grad(set_to_none=True)
        return norm.item()

    def learning_rate(self) -> float:
        return 0.0


def main() -> None:
    size = chosen_size(__doc__ or "")
    model = size.build()
    is_small = size.name == "small"
    if not is_small:
        model.gradient_checkpointing_enable()
    micro_batch_size = 4 if is_small else 2
    samples = [f(size, i) for i in range(4) for f in (text_sample, image_sample)]
    config, settings = run_config(micro_batch_size), scoring_settings(size)
    engine = LocalEngine(model, ActorConfig(), 1000) if is_small else GradientEngine(model)
    old = score(engine, config, settings, [sample.rollout for sample in samples])
    samples = [replace(sample, old_log_probs=log_probs) for sample, log_probs in zip(samples, old, strict=True)]
    same = equality(model, size, samples, micro_batch_size)

    def ours() -> None:
        unigrpo_updates(engine, config, settings, samples)

    def plainly() -> None:
        plain_update(engine, size, samples, micro_batch_size)

    seconds = interleaved({"plain": plainly, "ours": ours}, size.rounds, computing_clock)
    widths = (size.num_ids, size.vocabulary.codebook_size)
    before, now = (peak_logit_bytes(call, widths) / 1e6 for call in (plainly, ours))
    num_tokens = sum(len(sample.rollout.token_ids) for sample in samples)
    weights = model.num_parameters() - model.transformer.wte.weight.numel() - model.transformer.ff_out.weight.numel()
    # A forward and a backward pass, and a second forward pass if activations are recomputed, without attention and
    # head.
    flop = (6 if is_small else 8) * weights * num_tokens
    rows = [
        row("one update of a mixed batch", seconds["plain"], seconds["ours"], "s", 1.5, same),
        row("peak logit memory of one update", before, now, "MB"),
    ]
    write(
        "update",
        rows,
        size=size.name,
        samples=len(samples),
        tokens=num_tokens,
        tokens_when_padded=len(samples) * size.row_length,
        with_optimizer=is_small,
        tflops_without_head_and_attention=round(flop / seconds["ours"] / 1e12, 3),
        gpu_peak_gb={"plain": gpu_peak_gb(plainly), "ours": gpu_peak_gb(ours)},
    )


def plain_update(engine: LocalEngine, size: Size, samples: Sequence[TrainSample], micro_batch_size: int) -> None:
    """Makes an update with the mean of the clipped surrogate over the scored tokens of each response, from full
    logits."""
    engine.model.train()
    for part in micro_batches(samples, micro_batch_size):
        batch = full_rows(size, part, engine.device)
        model: MMadaModelLM = engine.model  # type: ignore[assignment]
        new = plain.log_likelihood(model, batch, size.vocabulary.mask_id, size.vocabulary.image_slice)
        known: list[Tensor] = []
        for sample in part:
            assert sample.old_log_probs is not None
            known.append(sample.old_log_probs[0])
        old = torch.zeros_like(new).masked_scatter(batch.is_scored, torch.cat(known).to(new))
        advantages = torch.tensor([sample.advantages[0] for sample in part], device=engine.device)[:, None]
        ratio = (new - old).exp()
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
        counted = batch.is_scored
        by_response = (surrogate * counted).sum(dim=1) / counted.sum(dim=1)
        engine.backward(-by_response.sum() / len(samples))
    engine.step()


def equality(model: MMadaModelLM, size: Size, samples: Sequence[TrainSample], micro_batch_size: int) -> str:
    """Returns the largest difference of a gradient as a fraction of the largest gradient of its weight."""
    engine, found = GradientEngine(model), []
    for update in (
        lambda: unigrpo_updates(engine, run_config(micro_batch_size), scoring_settings(size), samples),
        lambda: plain_update(engine, size, samples, micro_batch_size),
    ):
        engine.gradients = {}
        update()
        found.append(engine.gradients)
    ours, expected = found
    gap = max(((ours[name] - g).abs().max() / g.abs().max()).item() for name, g in expected.items())
    if size.dtype == torch.float32 and gap > 1e-3:
        raise AssertionError(f"gradients differ by {gap} of the largest")
    return f"gradients within {gap:.0e} of the largest"


if __name__ == "__main__":
    main()
