"""Compares log-probabilities of tokens and their gradients by our head, by torch's fused loss, and from full logits.

python tests/benchmarks/log_probs.py [--size 8b]

Liger's Triton kernels need a GPU; if Liger is installed, its loss is also measured there. It computes the gradient of
one scalar in the forward pass, so an objective with a ratio per token cannot use it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from measure import computing_clock, interleaved, peak_bytes, row, write
from sizes import Size, chosen_size
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions

from unigrpo.models.output_head import Head

Method = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Function of hidden states (N, D), weight (V, D), targets (N,) and temperatures (N,): log-probabilities (N,)."""


Work = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def full(hidden: Tensor, weight: Tensor, targets: Tensor, temperatures: Tensor) -> Tensor:
    """Computes all logits at once and keeps them for the backward pass."""
    logits = F.linear(hidden, weight)
    logits = (logits if logits.dtype == torch.float64 else logits.float()) / temperatures[:, None]
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def fused_by_torch(hidden: Tensor, weight: Tensor, targets: Tensor, temperatures: Tensor) -> Tensor:
    """Uses torch's chunked loss without reduction. The hidden states are divided by the temperature in float32."""
    scaled = (hidden.float() / temperatures[:, None]).to(hidden.dtype)
    options = LinearCrossEntropyOptions()
    loss = F.linear_cross_entropy(scaled, weight, targets, reduction="none", ignore_index=len(weight), options=options)
    return -loss.float()


def ours(hidden: Tensor, weight: Tensor, targets: Tensor, temperatures: Tensor) -> Tensor:
    """Uses the head of the model with this weight."""
    head = Head(1, 1, bias=False)
    head.weight = weight  # type: ignore[assignment]
    return head(hidden, targets=targets, temperatures=temperatures)


METHODS: dict[str, Method] = {"full logits": full, "torch's fused loss": fused_by_torch, "ours": ours}


def main() -> None:
    size = chosen_size(__doc__ or "")
    vocabulary = {"the vocabulary": size.num_ids, "the image codes": size.vocabulary.codebook_size}
    rows, found = [], {}
    for num_rows in (64, 4096):
        for name, num_ids in vocabulary.items():
            work = make_work(size, num_rows, num_ids, size.dtype)
            calls = {method: partial(run, METHODS[method], work) for method in METHODS}
            seconds = interleaved(calls, size.rounds, computing_clock)
            memory = {method: peak_bytes(call) / 1e6 for method, call in calls.items()}
            what = f"{num_rows} log-probabilities over {name}"
            for other in ("full logits", "torch's fused loss"):
                rows.append(row(f"{what}, against {other}", seconds[other], seconds["ours"], "s"))
                rows.append(row(f"{what}, against {other}: peak memory", memory[other], memory["ours"], "MB"))
            found[what] = {
                str(dtype).removeprefix("torch."): differences(make_work(size, min(num_rows, 512), num_ids, dtype))
                for dtype in (torch.float32, torch.bfloat16)
            }
    write("log_probs", rows, size=size.name, largest_differences_from_float64=found, liger=liger())


def make_work(size: Size, num_rows: int, num_ids: int, dtype: torch.dtype) -> Work:
    """Returns random hidden states, head, targets and temperatures, and gradients of the log-probabilities."""
    torch.manual_seed(0)
    hidden = torch.randn(num_rows, size.width, device=size.device, dtype=dtype).requires_grad_()
    weight = torch.nn.Parameter(0.1 * torch.randn(num_ids, size.width, device=size.device, dtype=dtype))
    targets = torch.randint(0, num_ids, (num_rows,), device=size.device)
    temperatures = torch.full((num_rows,), 0.7, device=size.device)
    return hidden, weight, targets, temperatures, torch.randn(num_rows, device=size.device)


def run(method: Method, work: Work) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the log-probabilities, and the gradients of hidden states and head."""
    hidden, weight, targets, temperatures, wanted = work
    log_probs = method(hidden, weight, targets, temperatures)
    (log_probs * wanted).sum().backward()
    assert hidden.grad is not None and weight.grad is not None
    results = (log_probs.detach(), hidden.grad, weight.grad)
    hidden.grad = weight.grad = None
    return results


def differences(work: Work) -> dict[str, dict[str, float]]:
    """Returns the largest difference from full logits in float64, for values, and for gradients relative to the
    largest."""
    hidden, weight, *rest = work
    exact = (hidden.detach().double().requires_grad_(), torch.nn.Parameter(weight.detach().double()))
    expected, *expected_gradients = run(full, (*exact, *rest))  # type: ignore[arg-type]
    found = {}
    for name, method in METHODS.items():
        values, *gradients = run(method, work)
        gaps = [(g - e).abs().max() / e.abs().max() for g, e in zip(gradients, expected_gradients, strict=True)]
        found[name] = {"log_probs": (values - expected).abs().max().item(), "gradients": max(gaps).item()}
    return found


def liger() -> str:
    """Returns whether Liger can run on this machine."""
    if find_spec("liger_kernel") is None:
        return "not installed"
    try:
        importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
    except ImportError as error:
        return f"cannot be imported: {error}"
    return "runs" if torch.cuda.is_available() else "has no kernels for a CPU"


if __name__ == "__main__":
    main()
