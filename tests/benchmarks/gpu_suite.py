"""Measures the 8B model on one GPU of 80 GB or more in 8 minutes; see gpu_suite.sh.

Weights are random, because times, memory and rounding depend only on the shapes. The result of every part is written
before the next part starts, so that a run that is ended early keeps the results so far.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from absent_packages import ABSENT
from measure import computing_clock, peak_bytes
from samples import scoring_settings
from sizes import SIZES, Size
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from unigrpo.config import ImageSamplingConfig, LoRAConfig, TextSamplingConfig
from unigrpo.cost.hardware import gpu_of_this_machine
from unigrpo.cost.memory import ModelSize, logit_copies, sampling_gb, scoring_gb, update_gb
from unigrpo.cost.step_time import Lengths, forward_flops, image_flops, text_flops
from unigrpo.models.fused_ops import FusedOps, compiled
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.sampling.image import sample_images
from unigrpo.models.sampling.text import sample_text
from unigrpo.records import KeyedTrajectory, SampleKey, Trajectory
from unigrpo.workers.logprob_mismatch import logprob_gaps

RESERVE_SECONDS = 20.0
"""A part starts only if this many seconds are left beyond its own estimate."""


@dataclass
class Suite:
    """The model, the calls that are measured, and the results so far."""

    size: Size
    model: MMadaModelLM
    rows: int
    """Number of rows of a sampling batch."""
    row: int
    """Number of tokens of a row of scoring and training."""
    new_tokens: int
    """Number of generated tokens of a text."""
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        return "bf16" if self.size.dtype == torch.bfloat16 else "fp32"

    @property
    def sizes(self) -> ModelSize:
        return ModelSize.of(self.model.config, LoRAConfig())

    def text(self, **changes: Any) -> TextSamplingConfig:
        steps = self.new_tokens // 2
        same = {"max_new_tokens": self.new_tokens, "num_denoising_steps": steps, "stop_at_end_of_text": False}
        return replace(self.size.text, **(same | changes))

    def prompts(self) -> list[Tensor]:
        length = self.row // 4
        return self.size.text_tokens([length] * self.rows)

    def sample_text(self, settings: TextSamplingConfig) -> list[Trajectory]:
        generators = self.size.generators(self.rows)
        return sample_text(self.model.eval(), self.prompts(), settings, self.size.vocabulary, generators=generators)

    def sample_images(self, settings: ImageSamplingConfig) -> list[Trajectory]:
        prompts = self.size.image_tokens([self.row // 8] * self.rows)
        return sample_images(
            self.model.eval(),
            prompts,
            settings,
            self.size.vocabulary,
            generators=self.size.generators(self.rows),
            unconditional=[self.size.empty_image_tokens()] * self.rows,
        )

    def batch(self, rows: int, read: int) -> dict[str, Any]:
        """Returns the arguments of a pass over whole rows, in each of which ``read`` tokens are scored."""
        device = self.model.device
        positions = torch.zeros(rows, self.row, dtype=torch.bool, device=device)
        positions[:, -read:] = True
        return {
            "input_ids": torch.randint(100, 1000, (rows, self.row), device=device),
            "positions": positions,
            "num_positions": rows * read,
            "targets": torch.randint(100, 1000, (rows * read,), device=device),
        }

    @torch.no_grad()
    def score(self, rows: int) -> Tensor:
        return self.model.eval()(**self.batch(rows, self.row // 4)).log_probs

    def update(self, rows: int, *, is_recomputed: bool) -> None:
        """Makes a forward and a backward pass, which drops each gradient of a weight as soon as it exists."""

        def drop(parameter: Tensor) -> None:
            parameter.grad = None

        self.model.gradient_checkpointing = is_recomputed
        hooks = [p.register_post_accumulate_grad_hook(drop) for p in self.model.train().parameters()]
        try:
            self.model(**self.batch(rows, self.row // 4)).log_probs.sum().backward()
        finally:
            for hook in hooks:
                hook.remove()
            self.model.eval()

    def speed(self, flops: float, seconds: float) -> dict[str, float | None]:
        """Returns seconds, TFLOP/s and MFU. The MFU of a GPU that the hardware table does not list is None."""
        kind = gpu_of_this_machine()
        tflops = flops / seconds / 1e12
        return {"seconds": seconds, "tflops": tflops, "mfu": None if kind is None else tflops / kind.tflops}


def timed(call: Callable[[], Any], rounds: int = 1, *, is_warm: bool = False) -> float:
    """Returns the median seconds of a call, after one that is not counted."""
    if not is_warm:
        call()
    seconds = []
    for _ in range(rounds):
        started = computing_clock()
        call()
        seconds.append(computing_clock() - started)
    return statistics.median(seconds)


def peak_gb(call: Callable[[], Any]) -> float:
    """Returns the peak memory of a call beyond the memory before it, in 1e9 bytes."""
    gc.collect()
    return peak_bytes(call) / 1e9


def machine(suite: Suite) -> dict[str, Any]:
    """Returns versions and hardware."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "absent": ABSENT,
        "parameters": suite.model.num_parameters(),
        "gpu": None,
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        found |= {"gpu": gpu.name, "memory_gb": gpu.total_memory / 1e9, "cuda": torch.version.cuda}
    return found


def precision(suite: Suite) -> dict[str, Any]:
    """Compares log-probabilities (nats) in bfloat16 with those of the same weights in float32."""
    with torch.no_grad():
        inputs = suite.batch(2, suite.row // 4)
        narrow = suite.model.to(torch.bfloat16)(**inputs).log_probs  # type: ignore[arg-type]
        wide_model = copy.deepcopy(suite.model).float()
        wide = wide_model(**inputs).log_probs
        del wide_model
        suite.model.to(suite.size.dtype)  # type: ignore[arg-type]
    gap = (narrow - wide).abs()
    return {"mean_gap": gap.mean().item(), "largest_gap": gap.max().item(), "spread": wide.std().item()}


def parity(suite: Suite) -> dict[str, Any]:
    """Compares the log-probabilities (nats) that the samplers record with those of the training path."""
    found = {}
    text = suite.sample_text(suite.text())
    images = suite.sample_images(replace(suite.size.image, guidance_scale=0.0))
    for task, samples in (("text", text), ("t2i", images)):
        rollouts = [_rollout(number, task, sample) for number, sample in enumerate(samples)]
        settings, device = scoring_settings(suite.size), suite.model.device
        gaps = logprob_gaps(suite.model, rollouts, settings, device, seed=0, batch_size=len(rollouts))
        tokens = sum(gap.num_tokens for gap in gaps)
        found[task] = {
            "mean_gap": sum(gap.total for gap in gaps) / tokens,
            "largest_gap": max(gap.largest for gap in gaps),
            "tokens": tokens,
        }
    return found


def _rollout(number: int, task: Any, sample: Trajectory) -> KeyedTrajectory:
    return KeyedTrajectory(
        key=SampleKey(prompt_id=str(number), task=task, group_id=0, sample_id=number, step=0),
        policy_version=0,
        **vars(sample),
    )


def text_rollouts(suite: Suite) -> dict[str, Any]:
    """Measures the generation of texts with every cache."""
    found = {}
    ways: dict[str, dict[str, Any]] = {
        "dual and threshold": {"cache": "dual", "threshold": 0.9},
        "dual": {"cache": "dual"},
        "prefix": {"cache": "prefix"},
        "none": {},
    }
    suite.sample_text(suite.text(cache="dual", num_denoising_steps=suite.new_tokens // suite.size.text.block_length))
    for name, changes in ways.items():
        settings = suite.text(**changes)
        seconds = timed(lambda settings=settings: suite.sample_text(settings), is_warm=True)
        lengths = Lengths(prompt=suite.row // 4, response=suite.new_tokens)
        flops = suite.rows * text_flops(suite.sizes, lengths, settings)
        speed = {"seconds": seconds} if "threshold" in changes else suite.speed(flops, seconds)
        found[name] = speed | {"tokens_per_second": suite.rows * suite.new_tokens / seconds}
    return found


def image_rollouts(suite: Suite) -> dict[str, Any]:
    """Measures the generation of images with every cache."""
    found = {}
    suite.sample_images(replace(suite.size.image, num_denoising_steps=1))
    for cache in ("text", "none"):
        settings = replace(suite.size.image, cache=cache)
        seconds = timed(lambda settings=settings: suite.sample_images(settings), is_warm=True)
        lengths = Lengths(prompt=suite.row // 8, response=settings.num_image_tokens)
        flops = suite.rows * image_flops(suite.sizes, lengths, settings, suite.size.vocabulary.codebook_size)
        found[cache] = suite.speed(flops, seconds) | {"images_per_second": suite.rows / seconds}
    return found


def scoring(suite: Suite) -> dict[str, Any]:
    """Measures a scoring pass."""
    flops = suite.rows * forward_flops(suite.sizes, suite.row, suite.row // 4)
    return suite.speed(flops, timed(lambda: suite.score(suite.rows), 3))


def update(suite: Suite) -> dict[str, Any]:
    """Measures forward and backward passes with and without gradient checkpointing, without an optimizer."""
    rows = max(1, suite.rows // 4)
    flops = rows * forward_flops(suite.sizes, suite.row, suite.row // 4)
    return {
        name: suite.speed(
            (4 if is_recomputed else 3) * flops,
            timed(lambda again=is_recomputed: suite.update(rows, is_recomputed=again), 2),
        )
        for name, is_recomputed in (("with checkpointing", True), ("without checkpointing", False))
    }


def logit_memory(suite: Suite) -> dict[str, Any]:
    """Compares the memory of log-probabilities with that of all logits, in 1e9 bytes."""
    inputs = suite.batch(1, suite.row // 4)
    whole = {"input_ids": inputs["input_ids"]}
    with torch.no_grad():
        return {
            "log_probs_gb": peak_gb(lambda: suite.model(**inputs)),
            "all_logits_gb": peak_gb(lambda: suite.model(**whole).logits.float().log_softmax(-1)),
        }


def attention(suite: Suite) -> dict[str, Any]:
    """Measures the seconds of the attention of one layer by kernel, without and with a mask for padding."""
    config, device = suite.model.config, suite.model.device
    shape = (suite.rows, config.n_heads, suite.row, config.d_model // config.n_heads)
    q, k, v = (torch.randn(shape, device=device, dtype=suite.size.dtype) for _ in range(3))
    mask = torch.ones(suite.rows, 1, suite.row, suite.row, dtype=torch.bool, device=device)
    mask[0, :, :, 0] = False
    found: dict[str, Any] = {}
    kernels = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)
    for kernel in kernels:
        for name, used in (("", None), (" with mask", mask)):
            try:
                with sdpa_kernel(kernel), torch.no_grad():
                    call = torch.nn.functional.scaled_dot_product_attention
                    found[kernel.name + name] = timed(lambda used=used, call=call: call(q, k, v, attn_mask=used), 3)
            except RuntimeError as error:
                found[kernel.name + name] = f"not available: {str(error).splitlines()[0]}"
    return found


def fused(suite: Suite) -> dict[str, Any]:
    """Compares a scoring pass with and without ds.compile, and measures the seconds of the compilation."""
    plain = timed(lambda: suite.score(suite.rows), 3)
    suite.model.set_fused_ops(compiled())
    try:
        started = time.monotonic()
        suite.score(suite.rows)
        compilation = time.monotonic() - started
        fast = timed(lambda: suite.score(suite.rows), 3)
    finally:
        suite.model.set_fused_ops(FusedOps())
    return {"plain_seconds": plain, "compiled_seconds": fast, "compilation_seconds": compilation}


def memory_plan(suite: Suite) -> dict[str, Any]:
    """Compares planned gigabytes with measured ones."""
    size, dtype, rows, few = suite.sizes, suite.dtype, suite.rows, max(1, suite.rows // 4)
    settings = suite.text(cache="dual", num_denoising_steps=suite.new_tokens // suite.size.text.block_length)
    tokens = rows * (suite.row // 4 + suite.new_tokens)
    image = replace(suite.size.image, cache="text", num_denoising_steps=2)
    image_tokens = rows * (suite.row // 8 + image.num_image_tokens + 1)
    unconditional = rows * (image.num_image_tokens + 5)
    planned = {
        "score": (lambda: suite.score(rows), scoring_gb(size, rows * suite.row, dtype, rows * suite.row // 4)),
        "text, cache dual": (
            lambda: suite.sample_text(settings),
            sampling_gb(
                size,
                dtype,
                tokens=tokens,
                cached_tokens=tokens,
                num_logits=rows * settings.block_length * size.vocabulary_size,
                copies=logit_copies(settings.temperature, settings.top_p, 0.0),
            ),
        ),
        "image, cache text": (
            lambda: suite.sample_images(image),
            sampling_gb(
                size,
                dtype,
                tokens=image_tokens,
                cached_tokens=image_tokens + unconditional,
                num_logits=rows * image.num_image_tokens * suite.size.vocabulary.codebook_size,
                copies=logit_copies(image.temperature, 1.0, image.guidance_scale),
            ),
        ),
        "update with checkpointing": (
            lambda: suite.update(few, is_recomputed=True),
            update_gb(size, few * suite.row, dtype, few * suite.row // 4, is_recomputed=True),
        ),
        "update without checkpointing": (
            lambda: suite.update(few, is_recomputed=False),
            update_gb(size, few * suite.row, dtype, few * suite.row // 4, is_recomputed=False),
        ),
    }
    found = {}
    for name, (call, expected) in planned.items():
        measured = peak_gb(call)
        found[name] = {"measured_gb": measured, "planned_gb": expected, "error": expected / measured - 1}
    return found


def cost_model(suite: Suite) -> dict[str, Any]:
    """Compares the seconds that the plan predicts from the MFU of scoring with measured seconds."""
    done = suite.results
    needed = ("scoring", "update", "text_rollouts", "image_rollouts")
    missing = [name for name in needed if not done.get(name) or {"failed", "skipped"} & set(done[name])]
    if missing:
        return {"skipped": f"it needs the results of {', '.join(missing)}"}
    speed = done["scoring"]["tflops"] * 1e12
    lengths = Lengths(prompt=suite.row // 4, response=suite.new_tokens)
    found = {}
    for cache in ("none", "prefix", "dual"):
        predicted = suite.rows * text_flops(suite.sizes, lengths, suite.text(cache=cache)) / speed
        found[f"text, cache {cache}"] = (done["text_rollouts"][cache]["seconds"], predicted)
    codes = suite.size.vocabulary.codebook_size
    image = Lengths(prompt=suite.row // 8, response=suite.size.image.num_image_tokens)
    for cache in ("none", "text"):
        predicted = suite.rows * image_flops(suite.sizes, image, replace(suite.size.image, cache=cache), codes) / speed
        found[f"image, cache {cache}"] = (done["image_rollouts"][cache]["seconds"], predicted)
    work = done["update"]["with checkpointing"]
    found["update"] = (work["seconds"], work["tflops"] * 1e12 * work["seconds"] / speed)
    return {
        name: {"measured": measured, "predicted": predicted, "error": predicted / measured - 1}
        for name, (measured, predicted) in found.items()
    }


PARTS: dict[str, tuple[Callable[[Suite], dict[str, Any]], float]] = {
    "machine": (machine, 1),
    "scoring": (scoring, 10),
    "update": (update, 20),
    "memory_plan": (memory_plan, 40),
    "text_rollouts": (text_rollouts, 60),
    "image_rollouts": (image_rollouts, 40),
    "cost_model": (cost_model, 1),
    "parity": (parity, 40),
    "precision": (precision, 20),
    "attention": (attention, 10),
    "logit_memory": (logit_memory, 5),
    "fused": (fused, 90),
}
"""The parts in their order, the most important ones first, with the seconds that each may take on a GPU."""


def build(size: Size) -> Suite:
    """Returns the suite of a size: rows of 1,792 tokens for the 8B model."""
    model = size.build()
    if size.name == "8b":
        return Suite(size=size, model=model, rows=16, row=1792, new_tokens=128)
    return Suite(size=size, model=model, rows=4, row=64, new_tokens=2 * size.text.block_length)


def run(suite: Suite, out: Path, parts: list[str], seconds: float) -> dict[str, Any]:
    """Measures the parts while time is left, and writes the file after each part."""
    deadline = time.monotonic() + seconds
    results = suite.results
    for name in parts:
        part, estimate = PARTS[name]
        left = deadline - time.monotonic()
        if left < estimate + RESERVE_SECONDS:
            results[name] = {"skipped": f"{left:.0f} s were left, and the part may need {estimate:.0f} s"}
        else:
            started = time.monotonic()
            try:
                results[name] = _rounded(part(suite))
            except Exception as error:  # the next parts may still succeed
                traceback.print_exc()
                results[name] = {"failed": f"{type(error).__name__}: {error}"}
            results[name]["wall_seconds"] = round(time.monotonic() - started, 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")
        sys.stdout.write(json.dumps({name: results[name]}) + "\n")
        sys.stdout.flush()
    return results


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) and math.isfinite(value) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="8b", help="small runs on a CPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="time after which no part starts")
    parser.add_argument("--out", type=Path, default=Path("gpu_suite.json"), help="JSON file for the results")
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to measure, joined by commas")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.parts.split(",")) - PARTS.keys())
    if unknown:
        parser.error(f"--parts: no {', '.join(unknown)}; choose among {', '.join(PARTS)}")
    size = SIZES[chosen.size]
    if chosen.size == "8b" and not torch.cuda.is_available():
        parser.error("the 8B model needs a GPU, and torch sees none; --size small runs on a CPU")
    if chosen.size == "8b" and torch.cuda.get_device_properties(0).total_memory < 79e9:
        parser.error("the 8B model needs a GPU of 80 GB")
    started = time.monotonic()
    suite = build(size)
    results = run(suite, chosen.out, chosen.parts.split(","), 60 * chosen.minutes - (time.monotonic() - started))
    sys.exit(any("failed" in part for part in results.values()))


if __name__ == "__main__":
    main()
