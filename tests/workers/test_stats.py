"""Compares counted operations of workers with PyTorch's counter, and seconds with a clock that the test sets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unigrpo.config import LoRAConfig
from unigrpo.models.lora import add_lora
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling.cache import KeyValueCache
from unigrpo.workers import stats as stats
from unigrpo.workers.flop_meter import FlopMeter
from unigrpo.workers.stats import Work, WorkerStats

ROWS, LENGTH, VOCABULARY = 3, 10, 60
TOKENS = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH)
POSITIONS = torch.arange(LENGTH).expand(ROWS, LENGTH) >= 4
TARGETS = TOKENS[POSITIONS]


def small_model() -> MMadaModelLM:
    torch.manual_seed(0)
    # Attention consists of matrix products here, because PyTorch's counter does not count the CPU's kernel.
    return MMadaModelLM._from_config(  # type: ignore[no-any-return]
        MMadaConfig(d_model=16, n_layers=2, n_heads=2, mlp_hidden_size=24, vocab_size=VOCABULARY, mask_token_id=1),
        attn_implementation="eager",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"positions": POSITIONS, "num_positions": int(POSITIONS.sum())},
        {"positions": POSITIONS},
        {"positions": POSITIONS, "targets": TARGETS},
        {"positions": POSITIONS, "targets": TARGETS % 20 + 40, "vocab_slice": (40, 60)},
        {
            "positions": POSITIONS,
            "targets": torch.where(TARGETS > 15, TARGETS % 20 + 40, TARGETS),
            "vocab_slice": (40, 60),
            "is_sliced": TARGETS > 15,
        },
    ],
    ids=["everywhere", "counted positions", "positions", "targets", "slice", "both"],
)
def test_forward_passes_are_counted_as_pytorch_counts_them(arguments: dict[str, Any]) -> None:
    model = small_model().eval()
    meter = FlopMeter(model, LoRAConfig())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(TOKENS, **arguments)
    assert meter.flops == counter.get_total_flops() > 0


@pytest.mark.parametrize("is_recomputed", [False, True])
def test_training_passes_are_counted_with_backward_and_recomputation(is_recomputed: bool) -> None:
    model = small_model().train()
    if is_recomputed:
        model.gradient_checkpointing_enable()
    meter = FlopMeter(model, LoRAConfig())
    with FlopCounterMode(display=False) as counter:
        model(TOKENS, positions=POSITIONS, targets=TARGETS).log_probs.sum().backward()
    assert meter.flops == pytest.approx(counter.get_total_flops(), rel=1e-6)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("of_base", [False, True])
def test_guided_rows_and_the_base_of_the_exact_kl_are_counted(trained: bool, of_base: bool) -> None:
    """There are two conditional rows, and the last row guides the second one, as in training."""
    model = small_model().train(trained)
    meter = FlopMeter(model, LoRAConfig())
    targets = TOKENS[:2][POSITIONS[:2]] % 20 + 40
    is_guided = torch.arange(len(targets)) >= len(targets) // 2
    base = torch.zeros(int(POSITIONS.sum()), 16) if of_base else None
    sliced: dict[str, Any] = {"vocab_slice": (40, 60), "is_sliced": is_guided, "is_guided": is_guided}
    with torch.set_grad_enabled(trained), FlopCounterMode(display=False) as counter:
        found = model(TOKENS, positions=POSITIONS, targets=targets, guidance_scale=2.0, base=base, **sliced)
        if trained:
            found.log_probs.sum().backward()
    assert meter.flops == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_passes_without_the_head_do_not_count_it() -> None:
    model = small_model().eval()
    meter = FlopMeter(model, LoRAConfig())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(TOKENS, positions=POSITIONS, without_head=True)
    assert meter.flops == counter.get_total_flops() > 0


def test_passes_with_a_cache_attend_to_whole_rows() -> None:
    model = small_model().eval()
    cache = KeyValueCache()
    meter = FlopMeter(model, LoRAConfig())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(TOKENS, positions=POSITIONS, cache=cache)
        cache.first = 4
        model(TOKENS[:, 4:], positions=POSITIONS[:, 4:], cache=cache)
    assert meter.flops == counter.get_total_flops()


def test_adapters_alone_cost_less_to_train() -> None:
    meters = []
    for rank in (0, 2):
        model = small_model().train()
        if rank:
            add_lora(model, LoRAConfig(rank=rank))
        meters.append(FlopMeter(model, LoRAConfig(rank=rank)))
        model(TOKENS, positions=POSITIONS, targets=TARGETS)
    assert 2 / 3 < meters[1].flops / meters[0].flops < 1


def test_a_copy_is_counted_while_it_is_watched_and_the_model_once() -> None:
    model, copy = small_model().eval(), small_model().eval()
    meter = FlopMeter(model, LoRAConfig())
    with torch.no_grad():
        model(TOKENS)
        once = meter.flops
        with meter.watch(copy), meter.watch(model):
            copy(TOKENS)
            model(TOKENS)
        copy(TOKENS)
    assert meter.flops == 3 * once


def test_the_statistics_of_a_worker_add_up() -> None:
    stats = WorkerStats(size=2)
    stats.record("generate", [Work(seconds=3.0, flops=6e12, possible_flops=3e13, peak_gb=5.0), Work(seconds=1.0)])
    stats.record("generate", [Work(seconds=2.0, flops=2e12, possible_flops=2e13, peak_gb=4.0), Work(seconds=0.0)])
    stats.record("save", [Work(seconds=1.0), Work(seconds=1.0)])
    metrics = stats.pop("policy", step_seconds=10.0)
    assert metrics == {
        "perf/policy_generate_seconds": 3.0,  # (3 + 1 + 2 + 0) / 2 workers
        "perf/policy_save_seconds": 1.0,
        "perf/policy_idle_seconds": 6.0,
        "perf/policy_tflops": 8 / 6,
        "perf/policy_generate_tflops": 8 / 6,
        "perf/policy_mfu": 8e12 / 5e13,
        "memory/policy_peak_gb": 5.0,
    }
    assert stats.pop("policy", step_seconds=10.0) == {}


def test_a_worker_without_a_model_has_seconds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 102.5])
    monkeypatch.setattr(stats.time, "monotonic", lambda: next(times))
    assert stats.timed(object(), lambda: "done") == ("done", Work(seconds=2.5))
