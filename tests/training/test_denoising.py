"""Compares the denoising step with loops: weights, divisors, padding, partial losses of ranks, absent modalities."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer

from unigrpo.config import ActorConfig, AdamConfig
from unigrpo.data.layouts import lm_chat_row, lm_row, mmu_row, t2i_row
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.rng import keyed_generator
from unigrpo.training.denoising import (
    LossCounts,
    denoising_update,
    image_noise,
    noised_images,
    noised_texts,
    token_weights,
)
from unigrpo.training.optimizer_step import LocalEngine, NonFiniteLossError

N = 4
"""Number of tokens of an image."""


@pytest.fixture(scope="module")
def world(tiny_unified_folder):
    model = MMadaModelLM.from_pretrained(tiny_unified_folder)
    return model, Vocabulary.from_pretrained_parts(model.config, AutoTokenizer.from_pretrained(tiny_unified_folder))


@pytest.fixture
def engine(world):
    model, _ = world
    copy = MMadaModelLM(model.config)
    copy.load_state_dict(model.state_dict())
    return LocalEngine(copy, ActorConfig(adam=AdamConfig(lr=1e-3), lr_warmup_ratio=0.0, max_norm=0.0), 10)


def batches(vocabulary, num_rows=3):
    texts = [[5 + i, 6, 7 + i, 8][: 2 + i % 3] for i in range(num_rows)]
    codes = [torch.tensor([i % vocabulary.codebook_size, 1, 2, 3]) for i in range(num_rows)]
    noise = [image_noise(N, keyed_generator("t2i", i), "cosine", 0.0) for i in range(num_rows)]
    generators = {name: [keyed_generator(name, i) for i in range(num_rows)] for name in ("lm", "mmu")}
    return {
        "t2i": noised_images(
            [
                t2i_row(t, c, m, vocabulary, max_text_tokens=6)
                for t, c, (m, _) in zip(texts, codes, noise, strict=True)
            ],
            [ratio for _, ratio in noise],
        ),
        "lm": noised_texts([lm_row(t, vocabulary, num_tokens=9) for t in texts], generators["lm"], vocabulary.mask_id),
        "mmu": noised_texts(
            [mmu_row(c, t, vocabulary, max_text_tokens=7) for c, t in zip(codes, texts, strict=True)],
            generators["mmu"],
            vocabulary.mask_id,
        ),
    }


def cross_entropies(model, rows):
    """Returns the cross-entropy in nats by (row, column), computed from the full logits one token at a time."""
    logits = model(rows.input_ids, attention_mask=rows.token_mask).logits.double()
    return {
        (b, i): F.cross_entropy(logits[b, i], rows.targets[b, i]).item()
        for b in range(len(rows))
        for i in range(rows.targets.shape[1])
        if rows.is_counted[b, i]
    }


def test_each_loss_is_that_of_a_loop(world, engine):
    _, vocabulary = world
    all_rows = batches(vocabulary)
    with torch.no_grad():
        nats = {name: cross_entropies(engine.model.eval(), rows) for name, rows in all_rows.items()}
    expected = {"t2i": sum(nats["t2i"].values()) / len(nats["t2i"])}
    for name in ("lm", "mmu"):
        rows = all_rows[name]
        expected[name] = sum(
            value / rows.mask_ratio[b].item() / rows.answer_length[b].item() / len(rows)
            for (b, _), value in nats[name].items()
        )
    metrics = denoising_update(engine, all_rows, {"t2i": 1.0, "lm": 0.1, "mmu": 0.5}, micro_batch_size=2)
    for name, value in expected.items():
        assert metrics[f"loss/{name}"] == pytest.approx(value, rel=1e-5), name
    assert metrics["loss/total"] == pytest.approx(
        expected["t2i"] + 0.1 * expected["lm"] + 0.5 * expected["mmu"], rel=1e-5
    )


def test_masked_codes_and_the_tokens_around_the_image_are_scored_in_an_image_row(world):
    _, vocabulary = world
    hidden = torch.tensor([True, False, True, False])
    row = t2i_row([5, 6], torch.tensor([0, 1, 2, 3]), hidden, vocabulary, max_text_tokens=6)
    rows = noised_images([row], [0.5])
    length = row.token_ids.shape[0]
    start = length - N - 2
    assert rows.is_counted[0].nonzero().flatten().tolist() == [start, start + 1, start + 3, length - 1]
    assert rows.targets[0, start].item() == vocabulary.soi_id
    assert rows.targets[0, start + 1].item() == vocabulary.image_offset
    assert not rows.token_mask[0, 0]  # padding on the left


def test_the_partial_losses_of_two_ranks_add_up_to_the_loss(world):
    _, vocabulary = world
    rows = batches(vocabulary, num_rows=4)["t2i"]
    counts = LossCounts(num_rows=4, num_labelled_tokens=float(rows.is_counted.sum()))
    whole = token_weights(rows, counts)
    halves = torch.cat([token_weights(part, counts) for part in rows.split(3)])
    assert torch.equal(whole, halves)
    assert whole.sum().item() == pytest.approx(1.0)


def test_gradients_do_not_depend_on_the_micro_batches(world):
    model, vocabulary = world
    weights = []
    for size in (1, 2, 8):
        copy = MMadaModelLM(model.config)
        copy.load_state_dict(model.state_dict())
        engine = LocalEngine(copy, ActorConfig(adam=AdamConfig(lr=1e-2, eps=1e-2), lr_warmup_ratio=0.0), 10)
        denoising_update(engine, batches(vocabulary), {"t2i": 1.0, "lm": 0.1, "mmu": 0.5}, micro_batch_size=size)
        weights.append(torch.cat([p.detach().flatten() for p in copy.parameters()]))
    for other in weights[1:]:
        assert torch.allclose(weights[0], other, atol=1e-6)


@pytest.mark.parametrize("present", [("t2i",), ("lm",), ("mmu",), ("t2i", "lm")])
def test_any_modality_may_be_absent(world, engine, present):
    _, vocabulary = world
    rows = {name: batches(vocabulary)[name] for name in present}
    metrics = denoising_update(engine, rows, dict.fromkeys(present, 1.0), micro_batch_size=4)
    assert metrics["loss/total"] == pytest.approx(sum(metrics[f"loss/{name}"] for name in present))
    assert math.isfinite(metrics["grad_norm"])


def test_prompts_and_padding_are_never_masked(world):
    _, vocabulary = world
    chat = [5, vocabulary.end_header_id, 6, 7]
    row = lm_chat_row(chat, vocabulary, num_tokens=9)
    for seed in range(50):
        rows = noised_texts([row], [keyed_generator(seed)], vocabulary.mask_id)
        assert not rows.is_counted[0, :3].any()
        assert torch.equal(rows.input_ids[0, :3], row.token_ids[:3])
        assert rows.answer_length.item() == 6


def test_a_loss_that_is_not_finite_makes_no_update(world, engine):
    _, vocabulary = world
    rows = batches(vocabulary)["lm"]
    before = [p.detach().clone() for p in engine.model.parameters()]
    broken = dataclasses.replace(rows, mask_ratio=rows.mask_ratio * float("nan"))
    with pytest.raises(NonFiniteLossError, match="not all finite; this update was not made"):
        denoising_update(engine, {"lm": broken}, {"lm": 1.0}, micro_batch_size=4)
    assert all(torch.equal(a, b) for a, b in zip(before, engine.model.parameters(), strict=True))
