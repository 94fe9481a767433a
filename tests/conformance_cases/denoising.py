"""Checks masks, losses and schedules of pretraining."""

from __future__ import annotations

import re
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AttentionInterface, get_scheduler

from unigrpo.algorithm.denoising import (
    denoising_loss,
    image_mask,
    image_mask_ratio,
    labelled_mean_weights,
    likelihood_bound_weights,
    text_mask,
    text_mask_probability,
)
from unigrpo.algorithm.masking import apply_mask
from unigrpo.algorithm.schedule import masked_fraction
from unigrpo.config import ActorConfig
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.training.optimizer_step import make_scheduler

from .case import Case, NotApplicable
from .layouts import chat_rows, lm_rows, mmu_rows

IGNORED = -100
TASKS = ("t2i", "lm", "mmu", "r2i")


def check_schedules(case: Case) -> None:
    for match in case.names(r"out\.([a-z]+[\d.]*)(?:_start(-?[\d.]+)_end(-?[\d.]+)_tau([\d.]+))?"):
        ends = dict(zip(("start", "end", "tau"), map(float, filter(None, match.groups()[1:])), strict=False))
        found = masked_fraction(match[1], case["in.t"], **ends)
        case.close(match[0], found, case[match[0]], **case.allowed(atol=2e-6))


def check_image_noising(case: Case) -> None:
    size = case.params["n"]
    draws = torch.rand(len(case["in.u"]), size, generator=torch.Generator().manual_seed(0))
    for match in case.names(r"out\.num_masked(?:_(cosine|linear|sigmoid|pow[\d.]+)|_min_rate_([\d.]+))?"):
        settings: dict[str, Any] = {"schedule": match[1]} if match[1] else {}
        settings["min_ratio"] = float(match[2] or case.params["min_masking_rate"])
        ratio = image_mask_ratio(case["in.u"], **settings)
        case.exact(match[0], image_mask(ratio, draws).sum(dim=1), case[match[0]])
    for match in case.names(r"out\.mask_prob(?:_min_rate_([\d.]+))?"):
        ratio = image_mask_ratio(case["in.u"], min_ratio=float(match[1] or case.params["min_masking_rate"]))
        case.close(match[0], ratio, case[match[0]], atol=1e-6)
    if "in.rand_matrix" in case:
        hidden = image_mask(
            image_mask_ratio(case["in.u"], min_ratio=case.params["min_masking_rate"]), case["in.rand_matrix"]
        )
        noised = apply_mask(case["in.image_tokens"], hidden, case.params["mask_id"])
        case.exact("input_ids", noised, case["out.input_ids"])
        case.exact("labels", case["in.image_tokens"].masked_fill(~hidden, IGNORED), case["out.labels"])


def check_image_noising_options(case: Case) -> None:
    raise NotApplicable(
        "random_replace writes the mask token all the same in the original, and no published weights depend on it or "
        "on predicting all tokens; we have neither option"
    )


def check_text_noising(case: Case) -> None:
    """Compares masks of rows of our layouts, so that the tokens that may be masked are not taken from the result."""
    rows_of = {"lm": lm_rows, "chat": chat_rows, "mmu": mmu_rows}
    kind = next(kind for kind in rows_of if f"text_noising_{kind}" in case.name)
    case.params = {**case.other("prompt_mmu").params, **case.params}  # only that case has the special ids
    rows = rows_of[kind](case)
    clean, labels = (torch.stack([getattr(row, name) for row in rows]) for name in ("token_ids", "labels"))
    eligible = ~torch.stack([row.prompt_mask for row in rows])
    probability = text_mask_probability(case["in.t"])
    hidden = text_mask(probability, case["in.rand_matrix"], eligible)
    case.exact("noisy", apply_mask(clean, hidden, case.params["mask_id"]), case["out.noisy"])
    case.exact("labels", labels, case["out.labels"])
    case.close("p_mask", probability[:, None].expand(clean.shape), case["out.p_mask"], atol=1e-6)
    lengths = eligible.sum(dim=1, keepdim=True).clamp(min=int(kind == "chat")).expand(clean.shape)
    case.exact("answer_lengths", lengths, case["out.answer_lengths"])


def rows_by_task(case: Case) -> dict[str, slice]:
    """Returns the rows of each task in the mixed batch."""
    rows, first = {}, 0
    for task in TASKS:
        size = case.params[f"batch_{task}"]
        rows[task], first = slice(first, first + size), first + size
    return rows


def task_weights(case: Case, task: str, *, lm_lengths: bool = False, image_only: bool = False) -> Tensor:
    """Returns the weights (rows of the task, L) of log-probabilities in the loss of a task."""
    rows = rows_by_task(case)[task]
    ids, labels = case["in.input_ids"][rows], case["in.labels"][rows]
    is_masked = ids == case.params["mask_id"]
    if task == "t2i":
        labelled = (labels != IGNORED) & (torch.arange(ids.shape[1]) > case.params["S"])
        labelled = labelled & is_masked if image_only else labelled
        return labelled_mean_weights(labelled, num_labelled_tokens=float(labelled.sum()))
    lengths = case["in.answer_lengths_lm" if lm_lengths else "in.answer_lengths"][rows, 0]
    if task == "lm" and not lm_lengths:
        lengths = torch.full((len(ids),), ids.shape[1])
    return likelihood_bound_weights(is_masked, case["in.p_mask"][rows, 0], lengths, num_rows=float(len(ids)))


def attention_mask(case: Case, *, visible: bool = False) -> Tensor:
    """Returns a mask (B, L) that is False at the padding of t2i rows."""
    real = torch.ones(case["in.input_ids"].shape, dtype=torch.bool)
    if not visible:
        real[rows_by_task(case)["t2i"]] = case["in.t2i_masks"].bool()
    return real


def log_probs_of(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.log_softmax(dim=-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]


def added_mask_model(case: Case) -> MMadaModelLM:
    """Returns a model with the released attention, which adds the mask, 1 on real tokens, to the scores."""

    def added(_: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **__: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = query @ key.transpose(-1, -2) * scaling + mask
        return (scores.softmax(dim=-1) @ value).transpose(1, 2), None

    AttentionInterface.register("added_mask", added)
    return case.model("added_mask")


def pairs(mask: Tensor) -> Tensor:
    return mask[:, None, None, :] & mask[:, None, :, None]


@torch.no_grad()
def check_losses(case: Case) -> None:
    """Compares losses of given logits, and of the model: with the released attention, and with padding masked or
    visible."""
    labels, rows = case["in.labels"], rows_by_task(case)
    close = case.allowed("losses", atol=0.0, rtol=2e-5)
    given = log_probs_of(case["out.logits_reference"], labels)
    for task in TASKS:
        loss = denoising_loss(given[rows[task]], task_weights(case, task))
        case.close(f"loss_{task}", loss[None], case[f"out.loss_{task}"], **close)
    loss = denoising_loss(given[rows["lm"]], task_weights(case, "lm", lm_lengths=True))
    case.close("loss_lm_with_answer_lengths", loss[None], case["out.loss_lm_with_answer_lengths"], **close)
    loss = denoising_loss(given[rows["t2i"]], task_weights(case, "t2i", image_only=True))
    case.close("loss_t2i_image_tokens_only", loss[None], case["alt.loss_t2i_image_tokens_only"], **close)

    released = added_mask_model(case)(case["in.input_ids"], attention_mask=pairs(attention_mask(case))).logits
    case.close("logits_reference", released, case["out.logits_reference"], **case.allowed("logits", atol=2e-4))
    through: dict[str, float] = {"atol": 0.0, "rtol": 1e-4}
    for visible, name in ((False, "alt.loss_t2i_true_pad_mask"), (True, "alt.loss_t2i_no_mask")):
        logits = case.model()(case["in.input_ids"], attention_mask=attention_mask(case, visible=visible)).logits
        ours = log_probs_of(logits, labels)
        case.close(name, denoising_loss(ours[rows["t2i"]], task_weights(case, "t2i"))[None], case[name], **through)
        others = [denoising_loss(ours[rows[task]], task_weights(case, task)) for task in TASKS[1:]]
        case.close("losses without bias", torch.stack(others), case["alt.losses_lm_mmu_r2i_no_bias"], **through)


def check_gradient(case: Case) -> None:
    """Compares gradients of our loss through the released attention."""
    mixed, model = case.inputs(), added_mask_model(case.inputs())
    weight = torch.zeros(mixed["in.input_ids"].shape)
    for task, rows in rows_by_task(mixed).items():
        own = task_weights(mixed, task, lm_lengths=task == "lm")
        weight[rows] = case.params["coefficients"][task] * own
    positions = weight > 0
    out = model(
        mixed["in.input_ids"],
        attention_mask=pairs(attention_mask(mixed)),
        positions=positions,
        targets=mixed["in.labels"][positions],
    )
    loss = denoising_loss(torch.zeros(weight.shape).masked_scatter(positions, out.log_probs), weight)
    loss.backward()
    case.close("total", loss[None], case["out.total"], atol=0.0, rtol=1e-4)
    close = case.allowed(atol=2e-5, rtol=2e-3)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    norms = torch.stack([gradients[name].norm() for name in case.params["grad_norm_order"]])
    case.close("grad_norms", norms, case["out.grad_norms"], **close)
    case.close("global_norm", norms.norm()[None], case["out.global_norm"], **close)
    for match in case.names(r"out\.grad\.(.+)"):
        case.close(match[0], gradients[match[1]], case[match[0]], **close)


def check_absent_tasks(case: Case) -> None:
    """Checks that the loss of an absent task is 0, and that the other tasks have the losses of the original."""
    mixed, rows = case.inputs(), rows_by_task(case.inputs())
    close = case.allowed(atol=1e-6, rtol=2e-5)
    given = log_probs_of(mixed["out.logits_reference"], mixed["in.labels"])
    losses = {task: denoising_loss(given[rows[task]], task_weights(mixed, task)) for task in TASKS}
    with_lengths = denoising_loss(given[rows["lm"]], task_weights(mixed, "lm", lm_lengths=True))
    nothing = torch.zeros(0, mixed["in.input_ids"].shape[1])
    none = torch.zeros(0)
    absent = {
        "t2i": denoising_loss(nothing, labelled_mean_weights(nothing.bool(), num_labelled_tokens=0.0)),
        "text": denoising_loss(nothing, likelihood_bound_weights(nothing.bool(), none, none.long(), num_rows=0.0)),
    }
    for name, loss in absent.items():
        case.exact(f"an absent task ({name})", loss, torch.tensor(0.0))
    for name, order in (("mmu0", TASKS[:3]), ("lm0", TASKS[:3]), ("r2i0", TASKS)):
        expected = case[f"out.{name}_losses"]
        for i, task in enumerate(order):
            if f"{task}0" != name:
                # In the variant with r2i, the loss of lm is divided by the answer lengths.
                found = with_lengths if (name, task) == ("r2i0", "lm") else losses[task]
                case.close(f"{name}: {task}", found, expected[i], **close)
    shown = torch.zeros_like(given[rows["lm"]], dtype=torch.bool)
    weight = likelihood_bound_weights(shown, torch.ones(len(shown)), torch.ones(len(shown)).long(), num_rows=1.0)
    case.exact("no masked token", denoising_loss(given[rows["lm"]], weight), case["out.no_masked_token_losses"][1])


def check_learning_rates(case: Case) -> None:
    """Compares the learning-rate schedules of runs. Our cosine has a minimum, and polynomial decay is that of
    transformers."""
    close = case.allowed(atol=1e-9)
    pattern = r"(?:out|alt)\.(cosine|linear|polynomial|constant)(?:_with)?_warm(?:up)?_?(\d+)(?:_total(\d+))?(.*)"
    for match in case.names(pattern):
        kind, warm, rest = match[1], int(match[2]), match[4]
        floor = re.search(r"minscale([\d.]+)_honoured", rest)
        total = int(match[3] or len(case[match[0]]))
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        if kind == "polynomial":
            scheduler = get_scheduler("polynomial", optimizer, warm, total)
        else:
            names: dict[str, Any] = {
                "cosine": "cosine_with_min_lr",
                "linear": "linear",
                "constant": "constant_with_warmup",
            }
            actor = ActorConfig(
                lr_scheduler=names[kind],
                lr_warmup_ratio=(warm - 0.5) / total,
                min_lr_ratio=float(floor[1]) if floor else 0.0,
            )
            scheduler = make_scheduler(optimizer, actor, total, starts_at_zero=True)
        found = []
        for _ in range(len(case[match[0]])):
            found.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        case.close(match[0], torch.tensor(found, dtype=torch.float64), case[match[0]], **close)


def stratified_mask_counts(first: int, num_samples: int, answer_length: int) -> Int[Tensor, " num_samples"]:
    """Returns how many answer tokens are masked in each sample of a Monte-Carlo bound, evenly spread over
    1..answer_length.

    The weight of a masked token is ``answer_length / count``.

    Args:
        first: Count of the first sample, a uniform draw from 1..answer_length. The others follow at equal distances
            and start again at 1.
        num_samples: Number of masked copies of the sequence.
        answer_length: Number of tokens of the answer.

    Source:
        LLaDA, arXiv:2502.09992, likelihood evaluation; its released code spreads the counts over the samples.
    """
    steps = torch.arange(num_samples, dtype=torch.float32) * (answer_length / num_samples)
    return ((first + steps).round().long() - 1) % answer_length + 1


def check_mask_counts(case: Case) -> None:
    for i, sizes in enumerate(case.params["cases"]):
        counts = stratified_mask_counts(sizes["k"], sizes["batch"], sizes["answer_length"])
        case.exact(f"counts.{i}", counts, case[f"out.counts.{i}"])
        case.close(f"ratio.{i}", counts / sizes["answer_length"], case[f"out.ratio.{i}"], atol=1e-7)


CHECKS = {
    "mask_schedules": check_schedules,
    "image_noising_options": check_image_noising_options,
    "image_noising": check_image_noising,
    "text_noising": check_text_noising,
    "losses_gradient": check_gradient,
    "losses_empty": check_absent_tasks,
    "losses_": check_losses,
    "lr_schedules": check_learning_rates,
    "llada_likelihood": check_mask_counts,
}
