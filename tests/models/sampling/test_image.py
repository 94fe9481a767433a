"""Compares image sampling in batches, one by one and with a recomputation, and tests it with models of known
answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from unigrpo.config import ImageSamplingConfig
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling import image as image_sampling
from unigrpo.models.sampling.image import UNKNOWN, remasking_temperature, sample_images
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Trajectory

MASK, SOI, EOI, OFFSET, CODES, SIZE = 1, 2, 3, 20, 24, 16
VOCABULARY = Vocabulary(
    mask_id=MASK,
    begin_of_text_id=4,
    end_of_text_id=5,
    image_pad_id=6,
    soi_id=SOI,
    eoi_id=EOI,
    t2i_id=7,
    mmu_id=8,
    r2i_id=9,
    end_header_id=None,
    image_offset=OFFSET,
    codebook_size=CODES,
)


def sample(model, prompts, *, unconditional=None, known=None, seeds=None, **settings: Any) -> list[Trajectory]:
    values = {"num_image_tokens": SIZE, "num_denoising_steps": 5, "guidance_scale": 0.0} | settings
    generators = [torch.Generator().manual_seed(s) for s in (range(len(prompts)) if seeds is None else seeds)]
    return sample_images(
        model,
        prompts,
        ImageSamplingConfig(**values),
        VOCABULARY,
        generators=generators,
        unconditional=unconditional,
        known=known,
    )


def codes_of(sample: Trajectory, size: int = SIZE) -> Tensor:
    """Returns the codes of the row, including known ones."""
    return sample.token_ids[-1 - size : -1] - OFFSET


@pytest.fixture(scope="module")
def model():
    """Returns a model with random weights and 50 ids, whose predictions depend on all tokens and have a high
    entropy."""
    torch.manual_seed(0)
    config = MMadaConfig(d_model=16, n_layers=2, n_heads=2, mlp_hidden_size=32, vocab_size=50, init_std=0.4)
    return MMadaModelLM(config).eval()


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(10, 20, (length,), generator=generator) for length in (3, 9, 1, 6)]
    return [torch.cat([torch.tensor([7]), text, torch.tensor([SOI])]) for text in texts]


EMPTY = torch.tensor([7, 4, 5, SOI])
SOME_KNOWN = [
    None,
    torch.arange(SIZE) % CODES,
    torch.where(torch.arange(SIZE) < 6, 3, UNKNOWN),
    torch.where(torch.arange(SIZE) < 15, 3, UNKNOWN),
]


# A sample depends only on its own prompts, known codes and generator.


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0, "remasking_temperature": 0.0},
        {"temperature": 0.0},
        {},
        {"temperature": 0.7, "remasking_temperature": 4.5, "remasking_anneal": "compounding"},
        {"guidance_scale": 1.5},
        {"guidance_scale": 1.5, "known": SOME_KNOWN},
        {"schedule": "linear", "num_denoising_steps": 20},
        {"schedule": "pow2.5", "num_denoising_steps": 7},
        {"schedule": "sigmoid", "num_denoising_steps": 1},
    ],
    ids=str,
)
def test_a_batch_of_mixed_lengths_equals_one_by_one(model, prompts, changes):
    settings = {name: value for name, value in changes.items() if name != "known"}
    known, guides = changes.get("known"), [EMPTY, EMPTY, EMPTY[1:], EMPTY]
    together = sample(model, prompts, unconditional=guides, known=known, **settings)
    for i, prompt in enumerate(prompts):
        own = [known[i]] if known else None
        (alone,) = sample(model, [prompt], seeds=[i], unconditional=[guides[i]], known=own, **settings)
        assert torch.equal(together[i].token_ids, alone.token_ids)
        assert torch.equal(together[i].commit_step, alone.commit_step)
        torch.testing.assert_close(together[i].commit_log_probs, alone.commit_log_probs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{"remasking_temperature": 0.0}, {"temperature": 0.0}], ids=str)
def test_another_generator_gives_another_image(model, prompts, changes):
    first, again, other = (sample(model, prompts, seeds=s, **changes) for s in ([0] * 4, [0] * 4, [4, 5, 6, 7]))
    assert all(torch.equal(codes_of(a), codes_of(b)) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(codes_of(a), codes_of(b)) for a, b in zip(first, other, strict=True))


# Tests of the results.


def test_a_sample_is_its_prompt_the_image_and_end_of_image(model, prompts):
    for prompt, one in zip(prompts, sample(model, prompts), strict=True):
        assert one.token_ids.tolist() == [*prompt.tolist(), *(codes_of(one) + OFFSET).tolist(), EOI]
        drawn = torch.arange(len(one.token_ids)).sub(len(prompt)).clamp(-1, SIZE) % (SIZE + 1) < SIZE
        drawn[: len(prompt)] = False
        assert torch.equal(one.response_mask, drawn)
        assert torch.equal(one.scored_mask, drawn)
        assert torch.equal(one.commit_step >= 0, drawn)
        assert torch.equal(one.commit_log_probs < 0, drawn)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "sigmoid", "pow2", "pow0.5"])
def test_as_many_codes_are_fixed_in_each_step_as_the_schedule_says(model, prompts, schedule):
    (one,) = sample(model, prompts[:1], schedule=schedule, num_denoising_steps=4)
    at = torch.tensor([0.25, 0.5, 0.75])
    share = {
        "cosine": (at * torch.pi / 2).cos(),
        "linear": 1 - at,
        "sigmoid": 1 - ((at * 6 - 3).sigmoid() - 0.0474259) / (0.9525741 - 0.0474259),
        "pow2": 1 - at**2,
        "pow0.5": 1 - at**0.5,
    }[schedule]
    steps = one.commit_step[one.response_mask]
    assert [int((steps > step).sum()) for step in range(3)] == (SIZE * share).floor().int().tolist()


@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.6}, {"temperature": 0.0}, {"guidance_scale": 1.5}, {"guidance_scale": 0.8, "known": True}],
    ids=str,
)
def test_commit_log_probs_are_those_of_the_partly_masked_inputs(model, prompts, changes):
    settings = {name: value for name, value in changes.items() if name != "known"}
    scale = changes.get("guidance_scale", 0.0)
    known = SOME_KNOWN if changes.get("known") else None
    for prompt, one in zip(
        prompts, sample(model, prompts, unconditional=[EMPTY] * 4, known=known, **settings), strict=True
    ):
        expected = torch.zeros(len(one.token_ids))
        for step in range(int(one.commit_step.max()) + 1):
            partly = torch.where(~one.response_mask | (one.commit_step < step), one.token_ids, MASK)
            logits = model(partly[None]).logits[0].detach()
            if scale:
                guide = model(torch.cat([EMPTY, partly[len(prompt) :]])[None]).logits[0].detach()
                logits = torch.cat(
                    [
                        logits[: len(prompt)],
                        logits[len(prompt) :] + scale * (logits[len(prompt) :] - guide[len(EMPTY) :]),
                    ]
                )
            codes = logits[:, OFFSET : OFFSET + CODES] / (changes.get("temperature", 1.0) or 1.0)
            now = one.commit_step == step
            expected[now] = codes.log_softmax(-1)[now].gather(1, one.token_ids[now, None] - OFFSET)[:, 0]
        torch.testing.assert_close(one.commit_log_probs, expected, rtol=1e-4, atol=1e-4)


def test_known_codes_do_not_change_and_are_no_part_of_the_response(model, prompts):
    samples = sample(model, prompts, known=SOME_KNOWN)
    for one, known in zip(samples, SOME_KNOWN, strict=True):
        given = torch.zeros(SIZE).bool() if known is None else known != UNKNOWN
        if known is not None:
            assert torch.equal(codes_of(one)[given], known[given])
        assert torch.equal(one.response_mask[-SIZE - 1 : -1], ~given)
    assert samples[2].commit_step.max() == 4, "unknown codes are still sampled in several steps"


# Tests of the computed positions.


def test_the_head_is_computed_for_masked_positions_and_image_codes_only_and_padding_is_masked(model, prompts):
    calls = []

    def spy(tokens, **kwargs):
        calls.append(SimpleNamespace(tokens=tokens.clone(), **kwargs))
        return model(tokens, **kwargs)

    sample(spy, prompts, guidance_scale=1.0, unconditional=[EMPTY] * 4)
    assert len(calls) == 10
    padding = torch.tensor([6, 0, 8, 3])
    for with_prompt, without in zip(calls[::2], calls[1::2], strict=True):
        for call in (with_prompt, without):
            assert call.vocab_slice == (OFFSET, OFFSET + CODES)
            assert torch.equal(call.positions, call.tokens == MASK)
            assert call.num_positions == int(call.positions.sum())
        assert torch.equal(with_prompt.attention_mask, torch.arange(11 + SIZE + 1) >= padding[:, None])
        assert without.attention_mask is None and without.tokens.shape[1] == len(EMPTY) + SIZE + 1
        assert torch.equal(with_prompt.tokens[:, 11:], without.tokens[:, len(EMPTY) :]), "both have the same image"
    calls.clear()
    sample(spy, prompts[:1])
    assert calls[0].attention_mask is None, "without padding there is no attention mask"


def test_a_separate_pass_for_unconditional_rows_changes_nothing(model, prompts, monkeypatch):
    """A short unconditional prompt is either padded in one pass with the others, or has a separate shorter pass."""
    arguments: dict[str, Any] = {"unconditional": [EMPTY] * 4, "guidance_scale": 2.0, "known": SOME_KNOWN}
    apart = sample(model, prompts, **arguments)
    monkeypatch.setattr("unigrpo.models.sampling.image.MIN_LENGTH_RATIO", 0.0)
    shapes = []

    def spy(tokens, **kwargs):
        shapes.append(tuple(tokens.shape))
        return model(tokens, **kwargs)

    together = sample(spy, prompts, **arguments)
    assert set(shapes) == {(8, 11 + SIZE + 1)}
    for one, other in zip(together, apart, strict=True):
        assert torch.equal(codes_of(one), codes_of(other))
        torch.testing.assert_close(one.commit_log_probs, other.commit_log_probs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_noise_is_drawn_only_for_masked_codes_and_only_with_a_temperature(model, prompts, monkeypatch, temperature):
    drawn, draw = [], image_sampling.exponential_noise
    monkeypatch.setattr(
        image_sampling, "exponential_noise", lambda counts, *more: drawn.append(list(counts)) or draw(counts, *more)
    )
    samples = sample(model, prompts, known=SOME_KNOWN[:1] * 3 + SOME_KNOWN[2:3], temperature=temperature)
    hidden = [[int((one.commit_step >= step).sum()) for one in samples] for step in range(5)]
    assert hidden[0] == [16, 16, 16, 10]
    assert drawn == (hidden if temperature else [])


def test_codes_are_sampled_with_their_probabilities():
    probs = torch.tensor([0.02, 0.4, 0.3, 0.2, 0.08])
    logits = torch.full((CODES,), -1e4)
    logits[:5] = probs.log() / 2

    def constant(tokens, *, positions, **_):
        return SimpleNamespace(logits=logits.expand(int(positions.sum()), CODES))

    count = 4000
    (one,) = sample(constant, [EMPTY], num_image_tokens=count, num_denoising_steps=1, temperature=0.5)
    expected = torch.nn.functional.pad(probs, (0, CODES - 5))
    deviation = (expected * (1 - expected) / count).sqrt()
    share = codes_of(one, count).bincount(minlength=CODES) / count
    assert ((share - expected).abs() <= 4 * deviation).all(), share


def test_the_codes_with_the_highest_confidence_are_fixed_first():
    def oracle(tokens, *, positions, **_):
        """Returns logits in which the confidence in code 7 increases from left to right."""
        logits = torch.zeros(*tokens.shape, CODES)
        logits[..., 7] = torch.arange(tokens.shape[1]) * 0.2
        return SimpleNamespace(logits=logits[positions])

    greedy = {"temperature": 0.0, "remasking_temperature": 0.0}
    (one,) = sample(oracle, [EMPTY], schedule="linear", num_denoising_steps=4, **greedy)
    assert codes_of(one).tolist() == [7] * SIZE
    assert one.commit_step.tolist() == [-1] * 4 + [3] * 4 + [2] * 4 + [1] * 4 + [0] * 4 + [-1]
    (noisy,) = sample(oracle, [EMPTY], schedule="linear", num_denoising_steps=4, temperature=0.0)
    assert noisy.commit_step.tolist() != one.commit_step.tolist()


def test_the_noise_is_annealed_linearly_by_default():
    linear = ImageSamplingConfig(num_denoising_steps=4, remasking_temperature=2.0)
    assert [remasking_temperature(linear, k) for k in range(4)] == [1.5, 1.0, 0.5, 0.0]
    released = ImageSamplingConfig(num_denoising_steps=4, remasking_temperature=2.0, remasking_anneal="compounding")
    assert [remasking_temperature(released, k) for k in range(4)] == [1.5, 0.75, 0.1875, 0.0]


# Tests of errors.


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("guidance_scale is 2.0 without an unconditional prompt", {"guidance_scale": 2.0}),
        ("1 unconditional prompts for 4 prompts", {"guidance_scale": 2.0, "unconditional": [EMPTY]}),
        ("3 generators for 4 prompts", {"seeds": [1, 2, 3]}),
        ("1 known for 4 prompts", {"known": [None]}),
        (r"known 1 has shape \(3,\), expected \(16,\)", {"known": [None, torch.zeros(3).long(), None, None]}),
        (r"codes are in 24..24, expected 0..23", {"known": [torch.full((SIZE,), 24), None, None, None]}),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_by_name(model, prompts, message, arguments):
    with pytest.raises(ValueError, match=message):
        sample(model, prompts, **arguments)


def test_a_mask_in_a_prompt_and_a_broken_model_are_refused(model):
    with pytest.raises(ValueError, match="prompt 0 contains the mask token 1"):
        sample(model, [torch.tensor([7, MASK, SOI])])

    def broken(tokens, *, positions, **_):
        return SimpleNamespace(logits=torch.full((int(positions.sum()), CODES), torch.nan))

    with pytest.raises(ValueError, match="logits are not finite"):
        sample(broken, [EMPTY])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "quadratic"}, "schedule: no 'quadratic'"),
        ({"schedule": "pow"}, "schedule: no 'pow'"),
        ({"schedule": "pow0"}, "schedule: no 'pow0'"),
        ({"num_denoising_steps": 0}, "num_denoising_steps is 0"),
        ({"num_image_tokens": 0}, "num_image_tokens is 0"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0"),
        pytest.param({"remasking_anneal": "cosine"}, "remasking_anneal: no 'cosine'", marks=pytest.mark.wrong_types),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_on_construction(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageSamplingConfig(**settings)


def test_no_prompts_give_no_images_and_one_code_is_an_image(model):
    assert sample(model, []) == []
    (one,) = sample(model, [EMPTY], num_image_tokens=1)
    assert one.image_mask.sum() == 1
