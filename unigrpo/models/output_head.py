"""The output head, which maps hidden states to logits, or to log-probabilities of tokens without storing logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unigrpo.algorithm.kl import exact_kl
from unigrpo.models.guidance import guide
from unigrpo.models.wide_linear import wide_linear

HEAD_CHUNK_ROWS = 1024
"""Number of rows whose logits exist at once when only log-probabilities are requested."""


class Head(nn.Linear):
    """The output head.

    Every pass calls it exactly once. Under ZeRO-3, a call gathers the weights from all ranks, and all ranks must
    gather equally often even if their rows differ.
    """

    def forward(
        self,
        input: Float[Tensor, "*any D"],
        vocab_slice: tuple[int, int] | None = None,
        *,
        targets: Int[Tensor, " N"] | None = None,
        temperatures: Float[Tensor, " N"] | None = None,
        is_sliced: Bool[Tensor, " N"] | None = None,
        is_guided: Bool[Tensor, " N"] | None = None,
        guidance_scale: float = 0.0,
        base: Float[Tensor, "M D"] | None = None,
    ) -> Float[Tensor, "*_"]:
        """Returns the logits of the ids of ``vocab_slice``, or of all ids; with ``targets``, their log-probabilities
        (N,), or (N, 2) with ``base``: the second column is then the KL divergence to the base.

        Args:
            input: Hidden states; (N, D) with ``targets``, and after them one for each target of ``is_guided``.
            vocab_slice: First and one-past-last id that is computed.
            targets: Tokens whose log-probabilities are returned, in float32.
            temperatures: Divisor of the logits of each target.
            is_sliced: Targets to which the slice applies; the others use all ids. None applies it to all targets.
            is_guided: Targets of guidance, to all of which the slice applies.
            guidance_scale: Scale of the guidance of these targets.
            base: Hidden states of another model with this head, in the order of ``input``.
        """
        if targets is None or temperatures is None:
            return self._logits(input, vocab_slice)
        if is_sliced is None and is_guided is None:
            return self._log_probs(input, targets, vocab_slice, temperatures, base=base)
        sliced = torch.ones_like(targets, dtype=torch.bool) if is_sliced is None else is_sliced
        number, has_base = len(targets), base is not None
        parts: list[tuple[Tensor, tuple[int, int] | None, bool]] = [(sliced, vocab_slice, False)]
        if is_sliced is not None:
            parts.append((~sliced, None, False))
        if is_guided is not None:
            parts[0] = (sliced & ~is_guided, vocab_slice, False)
            parts.append((is_guided, vocab_slice, True))
        result = input.new_zeros((number, 2) if has_base else (number,), dtype=torch.float32)
        for rows, ids, guided in parts:
            part = self._log_probs(
                input[:number][rows],
                targets[rows],
                ids,
                temperatures[rows],
                guides=input[number:] if guided else None,
                guidance_scale=guidance_scale,
                base=None if base is None else base[:number][rows],
                base_guides=base[number:] if base is not None and guided else None,
            )
            result = result.masked_scatter(rows[:, None].expand_as(result) if has_base else rows, part)
        return result

    def _logits(self, hidden: Tensor, vocab_slice: tuple[int, int] | None) -> Tensor:
        return F.linear(hidden, self.weight if vocab_slice is None else self.weight[slice(*vocab_slice)])

    def _log_probs(
        self,
        hidden: Tensor,
        targets: Tensor,
        vocab_slice: tuple[int, int] | None,
        temperatures: Tensor,
        *,
        guides: Tensor | None = None,
        guidance_scale: float = 0.0,
        base: Tensor | None = None,
        base_guides: Tensor | None = None,
    ) -> Float[Tensor, " N"] | Float[Tensor, "N 2"]:
        """Returns log-probabilities in chunks of rows; the backward pass computes the logits again instead of storing
        them.

        Fused losses suit an objective of ratios less well (``tests/benchmarks/log_probs.py``). Torch's
        ``linear_cross_entropy`` rounds bfloat16 results, supports a temperature only as a factor of the hidden states,
        and on a CPU is many times slower for the rows of a text; for thousands of rows it needs less memory and a
        quarter less time. Liger's loss computes the gradient of one scalar in the forward pass, and only on a GPU.
        """
        offset = 0 if vocab_slice is None else vocab_slice[0]

        def all_log_probs(rows: Tensor, divisors: Tensor, without: Tensor | None) -> Tensor:
            weight = self.weight if vocab_slice is None else self.weight[slice(*vocab_slice)]
            logits = wide_linear(rows, weight)
            if without is not None:
                logits = guide(logits, wide_linear(without, weight), guidance_scale)
            logits = logits / divisors[:, None]  # the same name, so that no third copy stays alive
            return logits.log_softmax(-1)

        def chunk_log_probs(rows: Tensor, wanted: Tensor, divisors: Tensor, *more: Tensor | None) -> Tensor:
            without, of_base, base_without = more
            log_probs = all_log_probs(rows, divisors, without)
            # No cross-entropy: it takes a target of -100, here an id 100 before the slice, for one to leave out.
            result = log_probs.gather(1, wanted[:, None])[:, 0]
            if of_base is None:
                return result
            with torch.no_grad():
                base_log_probs = all_log_probs(of_base, divisors, base_without)
            return torch.stack([result, exact_kl(log_probs, base_log_probs)], dim=1)

        given = (hidden, targets - offset, temperatures, guides, base, base_guides)
        number = max(1, -(-len(hidden) // HEAD_CHUNK_ROWS))
        chunks = zip(
            *([None] * number if tensor is None else tensor.split(HEAD_CHUNK_ROWS) for tensor in given), strict=True
        )
        if torch.is_grad_enabled() and hidden.requires_grad:
            parts = [checkpoint(chunk_log_probs, *chunk, use_reentrant=False) for chunk in chunks]
        else:
            parts = [chunk_log_probs(*chunk) for chunk in chunks]
        return torch.cat(parts)
