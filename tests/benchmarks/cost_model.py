"""Compares the planned seconds of generation, scoring and an update of one rank with measured seconds.

python tests/benchmarks/cost_model.py [--size 8b]

The MFU (``--mfu`` of a dry run) is measured in the update, and the other times are predicted with it. This checks how
the plan divides the time of a step among its roles on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median

from measure import computing_clock, prediction_row, write
from samples import image_sample, run_config, scoring_settings, text_sample
from sizes import Size, chosen_size
from update import GradientEngine

from unigrpo.config import LoRAConfig
from unigrpo.cost.memory import ModelSize
from unigrpo.cost.step_time import Lengths, image_flops, pass_flops, text_flops
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.sampling.image import sample_images
from unigrpo.models.sampling.text import sample_text
from unigrpo.training.scoring import score
from unigrpo.training.unigrpo import unigrpo_updates
from unigrpo.training.views import ViewSampler

NUM_ROWS = 16
"""Number of rows that the 8B config generates at once."""
WITHIN = 0.3
"""Largest accepted relative error."""


def main() -> None:
    size = chosen_size(__doc__ or "")
    model = size.build()
    if size.name != "small":
        model.gradient_checkpointing_enable()
    measured = {name: seconds(call, size.rounds) for name, call in work(size, model).items()}
    flops = predicted_flops(size, model)
    speed = flops["update"] / measured["update"]
    rows = [
        prediction_row(name, measured[name], flops[name] / speed, "s", WITHIN) for name in measured if name != "update"
    ]
    write("cost_model", rows, size=size.name, rows_of_a_batch=NUM_ROWS, tflops_of_the_update=speed / 1e12)


def work(size: Size, model: MMadaModelLM) -> dict[str, Callable[[], object]]:
    """Returns the calls that are timed, by role."""
    samples = [f(size, i) for i in range(NUM_ROWS // 2) for f in (text_sample, image_sample)]
    config, settings = run_config(NUM_ROWS // 2), scoring_settings(size)
    engine = GradientEngine(model)
    rollouts = [sample.rollout for sample in samples]
    old = score(engine, config, settings, rollouts)
    samples = [replace(sample, old_log_probs=log_probs) for sample, log_probs in zip(samples, old, strict=True)]
    text = replace(size.text, stop_at_end_of_text=False)
    text_prompts = size.text_tokens([size.text_prompts[0]] * NUM_ROWS)
    image_prompts = size.image_tokens([size.image_prompts[0]] * NUM_ROWS)

    def draw() -> object:
        model.eval()
        return sample_images(
            model, image_prompts, size.image, size.vocabulary, generators=size.generators(NUM_ROWS),
            unconditional=[size.empty_image_tokens()] * NUM_ROWS,
        )  # fmt: skip

    def answer(cache: str) -> Callable[[], object]:
        settings = replace(text, cache=cache)
        return lambda: sample_text(
            model.eval(), text_prompts, settings, size.vocabulary, generators=size.generators(NUM_ROWS)
        )

    return {
        "update": lambda: unigrpo_updates(engine, config, settings, samples),
        "scoring a mixed batch": lambda: score(engine, config, settings, rollouts),
        "texts, cache none": answer("none"),
        "texts, cache prefix": answer("prefix"),
        "texts, cache dual": answer("dual"),
        "images": draw,
    }


def predicted_flops(size: Size, model: MMadaModelLM) -> dict[str, float]:
    """Returns the floating-point operations of each call, by the formulas of the plan."""
    measured = ModelSize.of(model.config, LoRAConfig())
    codes = size.vocabulary.codebook_size
    text = Lengths(prompt=size.text_prompts[0], response=size.text.max_new_tokens)
    image = Lengths(prompt=size.image_prompts[0], response=size.image.num_image_tokens)
    mixed, views = 0.0, ViewSampler(run_config(1))
    for number in range(NUM_ROWS // 2):
        for sample, ids in ((text_sample(size, number), size.num_ids), (image_sample(size, number), codes)):
            row = len(sample.rollout.token_ids)
            read = int(views.views(sample.rollout, 0).weight.sum())
            mixed += sum(pass_flops(measured, row, row**2, read, read * ids))
    passes = 3 if size.name == "small" else 4
    texts = {
        f"texts, cache {cache}": NUM_ROWS * text_flops(measured, text, replace(size.text, cache=cache))
        for cache in ("none", "prefix", "dual")
    }
    return {
        "update": passes * mixed,
        "scoring a mixed batch": mixed,
        **texts,
        "images": NUM_ROWS * image_flops(measured, image, size.image, codes),
    }


def seconds(call: Callable[[], object], rounds: int) -> float:
    """Returns the median seconds of some calls, after one that is not counted."""
    call()
    times = []
    for _ in range(rounds):
        started = computing_clock()
        call()
        times.append(computing_clock() - started)
    return median(times)


if __name__ == "__main__":
    main()
