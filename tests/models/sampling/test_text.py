"""Text sampling against the original's runs, against itself one by one, and with models whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unigrpo.config import TextSamplingConfig
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling.remasking import commit_counts
from unigrpo.models.sampling.text import sample_text
from unigrpo.models.vocabulary import Vocabulary

MASK, END = 37, 24
"""Ids of the golden cases."""
GREEDY = [
    "len16_steps16_block16",
    "len16_steps8_block8",
    "len16_steps4_block4",
    "len16_steps4_block16",
    "len12_steps6_block4",
    "len12_steps9_block4",
    "len16_steps32_block8",
    "cfg0.5",
    "cfg2.0",
]


def vocabulary_of(mask_id: int, end_of_text_id: int) -> Vocabulary:
    """Only these two ids are read by the sampler."""
    return Vocabulary(
        mask_id=mask_id,
        end_of_text_id=end_of_text_id,
        begin_of_text_id=0,
        image_pad_id=0,
        soi_id=0,
        eoi_id=0,
        t2i_id=0,
        mmu_id=0,
        r2i_id=0,
        end_header_id=None,
        image_offset=0,
        codebook_size=0,
    )


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]


def settings_of(params: dict[str, Any], **changes: Any) -> TextSamplingConfig:
    """The settings of a golden case."""
    return TextSamplingConfig(
        **{
            "max_new_tokens": params["gen_length"],
            "num_denoising_steps": params["steps"],
            "block_length": params["block_length"],
            "guidance_scale": params.get("cfg_scale", 0.0),
            "temperature": 0.0,
            "stop_at_end_of_text": False,
            **changes,
        }
    )


class Spy:
    """A model that remembers what it was asked."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model
        self.calls: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]] = []

    def __call__(self, tokens: torch.Tensor, *, attention_mask: torch.Tensor | None, positions: torch.Tensor) -> Any:
        self.calls.append((tokens.clone(), attention_mask, positions.clone()))
        return self.model(tokens, attention_mask=attention_mask, positions=positions)


class Logits:
    """What the sampler reads of a model's output."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class Oracle:
    """Knows the answer to each prompt, and is the surer the earlier in ``order`` a position stands."""

    vocab_size = 50

    def __init__(self, answers: dict[int, list[int]], order: list[int]) -> None:
        self.answers, self.order = answers, order

    def __call__(self, tokens: torch.Tensor, *, attention_mask: torch.Tensor | None, positions: torch.Tensor) -> Any:
        logits = torch.zeros(*tokens.shape, self.vocab_size)
        for row in range(len(tokens)):
            start = tokens.shape[1] - len(self.order)
            answer = self.answers[int(tokens[row, start - 1])]
            for place, offset in enumerate(self.order):
                logits[row, start + offset, answer[offset]] = 20.0 - place
        return Logits(logits[positions])


@pytest.fixture
def model():
    """Two layers with random weights over 50 ids: a spread-out distribution that depends on the other tokens."""
    torch.manual_seed(0)
    config = MMadaConfig(d_model=16, n_layers=2, n_heads=2, mlp_hidden_size=32, vocab_size=50, init_std=0.4)
    return MMadaModelLM(config).eval()


@pytest.fixture
def prompts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(2, 20, (length,), generator=generator) for length in (3, 9, 1, 6)]


# Against the original.


@pytest.mark.parametrize("case", GREEDY)
def test_greedy_ids_and_their_order_are_those_of_the_original(golden, golden_model, case):
    params, arrays = golden(f"text_generate_{case}")
    model = golden_model(f"text_generate_{case}", "model_small")
    samples = sample_text(
        model,
        list(arrays["in.prompt"]),
        settings_of(params),
        vocabulary_of(params["mask_id"], END),
        generators=generators(2),
    )
    assert torch.equal(torch.stack([s.token_ids for s in samples]), arrays["out.ids"])
    assert torch.equal(torch.stack([s.commit_step for s in samples]), arrays["out.commit_step"])


def test_left_padded_prompts_give_the_ids_of_the_original(golden, golden_model):
    params, arrays = golden("text_generate_leftpad_full_mask")
    model = golden_model("text_generate_leftpad_full_mask", "model_small")
    padding = [int((row == 0).sum()) for row in arrays["in.attention_mask"]]
    assert padding == [3, 0]
    samples = sample_text(
        model,
        [prompt[p:] for prompt, p in zip(arrays["in.prompt"], padding, strict=True)],
        settings_of(params),
        vocabulary_of(params["mask_id"], END),
        generators=generators(2),
    )
    for sample, ids, steps, p in zip(samples, arrays["out.ids"], arrays["out.commit_step"], padding, strict=True):
        assert torch.equal(sample.token_ids, ids[p:])
        assert torch.equal(sample.commit_step, steps[p:])


def test_stopping_keeps_the_originals_text_up_to_the_first_end_of_text(golden, golden_model):
    """The original stops only where the last token of a block ends the text in all rows; we at any, row by row."""
    params, arrays = golden("text_generate_early_stop")
    model = golden_model("text_generate_len16_steps16_block16", "model_small")
    args = (list(arrays["in.prompt"]), settings_of(params), vocabulary_of(MASK, END))
    assert params["eot_token"] == END
    (to_the_end,) = sample_text(model, *args, generators=generators(1))
    assert torch.equal(to_the_end.token_ids, arrays["alt.ids_without_stop"][0])

    stopping = settings_of(params, stop_at_end_of_text=True)
    (stopped,) = sample_text(model, args[0], stopping, args[2], generators=generators(1))
    original = arrays["out.ids"][0].tolist()
    end = original.index(END)
    assert end == 6, "in the first block, which is 5 to 8"
    assert stopped.token_ids.tolist() == original[:9] + [END] * 12
    assert stopped.scored_mask.nonzero().flatten().tolist() == [5, 6]
    assert stopped.commit_step[5:9].min() >= 0
    assert (stopped.commit_step[9:] == -1).all(), "the second block should not have been sampled"


def test_tokens_are_shared_out_over_the_steps_as_in_the_original(golden):
    _, arrays = golden("num_transfer_tokens")
    for (masked, steps), counts in zip(arrays["in.masks_steps"].tolist(), arrays["out.counts"], strict=True):
        assert commit_counts(masked, steps) == counts[:steps].tolist()


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_guidance_is_the_formula_of_the_original(golden, scale):
    _, arrays = golden("cfg_formulas")
    never = torch.full((2, 3, 1), -1e4)  # an eighth id, for the mask
    logits = torch.cat([torch.cat([arrays[f"in.{name}"].float(), never], -1) for name in ("cond", "uncond")])
    prompt = torch.tensor([1, 2])

    def model(tokens: torch.Tensor, *, attention_mask: torch.Tensor | None, positions: torch.Tensor) -> Any:
        assert (tokens[:2, :2] == prompt).all()
        assert (tokens[2:, :2] == 7).all(), "the prompt should be masked where nothing is to guide"
        assert torch.equal(positions, torch.tensor([False, False, True, True, True]).expand(4, 5))
        return Logits(logits.flatten(0, 1))

    settings = TextSamplingConfig(
        max_new_tokens=3, block_length=3, num_denoising_steps=1, temperature=0.0, guidance_scale=scale
    )
    samples = sample_text(model, [prompt, prompt], settings, vocabulary_of(7, 0), generators=generators(2))
    best = arrays[f"out.text_scale{scale}"].log_softmax(-1).max(-1)
    assert torch.equal(torch.stack([s.token_ids[2:] for s in samples]), best.indices)
    log_probs = torch.stack([s.commit_log_probs[2:] for s in samples])
    torch.testing.assert_close(log_probs, best.values.float(), rtol=1e-5, atol=1e-5)


# A sample depends on its own prompt and generator alone.


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.8},
        {"temperature": 1.0, "remasking": "random"},
        {"temperature": 0.0, "remasking": "random"},
        {"temperature": 1.0, "threshold": 0.3},
        {"temperature": 1.0, "guidance_scale": 1.5},
        {"temperature": 1.0, "stop_at_end_of_text": False},
    ],
    ids=str,
)
def test_a_batch_of_mixed_lengths_equals_one_by_one(model, prompts, changes):
    settings = TextSamplingConfig(max_new_tokens=12, block_length=4, num_denoising_steps=6, **changes)
    vocabulary = vocabulary_of(MASK, END)
    together = sample_text(model, prompts, settings, vocabulary, generators=generators(4))
    for i, prompt in enumerate(prompts):
        (alone,) = sample_text(model, [prompt], settings, vocabulary, generators=[generators(4)[i]])
        assert torch.equal(together[i].token_ids, alone.token_ids)
        assert torch.equal(together[i].commit_step, alone.commit_step)
        assert torch.equal(together[i].scored_mask, alone.scored_mask)
        torch.testing.assert_close(together[i].commit_log_probs, alone.commit_log_probs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
def test_another_generator_gives_another_sample(model, prompts, remasking):
    settings = TextSamplingConfig(max_new_tokens=12, block_length=4, num_denoising_steps=6, remasking=remasking)
    first, again, other = (
        sample_text(model, prompts, settings, vocabulary_of(MASK, END), generators=generators(4, seed))
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(a.token_ids, b.token_ids) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a.token_ids, b.token_ids) for a, b in zip(first, other, strict=True))


# What is computed.


def test_the_head_is_computed_at_the_masked_positions_of_the_block_only(model, prompts):
    settings = TextSamplingConfig(
        max_new_tokens=12, block_length=4, num_denoising_steps=6, stop_at_end_of_text=False, temperature=0.0
    )
    spy = Spy(model)
    sample_text(spy, prompts, settings, vocabulary_of(MASK, END), generators=generators(4))
    longest = 9
    assert len(spy.calls) == 6
    for call, (tokens, _, positions) in enumerate(spy.calls):
        first = longest + 4 * (call // 2)
        in_block = torch.zeros_like(positions)
        in_block[:, first : first + 4] = True
        assert torch.equal(positions, in_block & (tokens == MASK))
        assert (positions.sum(dim=1) == (4 if call % 2 == 0 else 2)).all()


def test_steps_that_fix_nothing_are_not_computed(model, prompts):
    settings = TextSamplingConfig(
        max_new_tokens=8, block_length=4, num_denoising_steps=24, stop_at_end_of_text=False, temperature=0.0
    )
    spy = Spy(model)
    sample_text(spy, prompts, settings, vocabulary_of(MASK, END), generators=generators(4))
    assert len(spy.calls) == 8


def test_padding_is_hidden_from_the_model(model, prompts):
    settings = TextSamplingConfig(max_new_tokens=4, block_length=4, num_denoising_steps=1)
    spy = Spy(model)
    sample_text(spy, prompts, settings, vocabulary_of(MASK, END), generators=generators(4))
    mask = spy.calls[0][1]
    assert mask is not None
    assert torch.equal(mask, torch.arange(13) >= torch.tensor([6, 0, 8, 3])[:, None])


def test_finished_samples_leave_the_batch_and_take_their_padding_along():
    answers = {
        1: [10, 11, 12, END, 13, 14, 15, 16],  # ends in the first block
        2: [10, 11, 12, 13, END, 14, 15, 16],
        3: [10, 11, 12, 13, 14, 15, END, 16],
    }
    prompts = [torch.tensor([5, 5, 5, 1]), torch.tensor([2]), torch.tensor([5, 3])]
    spy = Spy(Oracle(answers, list(range(8))))
    settings = TextSamplingConfig(max_new_tokens=8, block_length=2, num_denoising_steps=4, temperature=0.0)
    samples = sample_text(spy, prompts, settings, vocabulary_of(MASK, END), generators=generators(3))
    assert [tuple(tokens.shape) for tokens, _, _ in spy.calls] == [(3, 12), (3, 12), (2, 10), (1, 10)]
    assert [s.token_ids.tolist() for s in samples] == [
        [5, 5, 5, 1, 10, 11, 12] + [END] * 5,
        [2, 10, 11, 12, 13] + [END, 14] + [END] * 2,
        [5, 3, 10, 11, 12, 13, 14, 15, END, 16],
    ]
    assert [int(s.response_mask.sum()) for s in samples] == [8, 8, 8]
    assert [int(s.scored_mask.sum()) for s in samples] == [4, 5, 7]
    assert [s.commit_step.tolist()[-8:] for s in samples] == [
        [0, 0, 1, 1, -1, -1, -1, -1],
        [0, 0, 1, 1, 2, 2, -1, -1],
        [0, 0, 1, 1, 2, 2, 3, 3],
    ]


# What is drawn.


def test_the_surest_tokens_are_fixed_first_within_their_block():
    answer = [10, 11, 12, 13, 14, 15, 16, 17]
    order = [6, 2, 0, 5, 7, 1, 3, 4]  # the surest position first
    settings = TextSamplingConfig(max_new_tokens=8, block_length=4, num_denoising_steps=4, temperature=0.0)
    (sample,) = sample_text(
        Oracle({1: answer}, order), [torch.tensor([1])], settings, vocabulary_of(MASK, END), generators=generators(1)
    )
    assert sample.token_ids.tolist() == [1, *answer]
    assert sample.commit_step.tolist() == [-1, 0, 1, 0, 1, 3, 2, 2, 3]
    assert (sample.scored_mask == sample.response_mask).all(), "without end-of-text all of the response counts"


def test_a_threshold_fixes_all_sure_tokens_and_at_least_one():
    answer = [10, 11, 12, 13, 14, 15, 16, 17]
    order = [0, 1, 2, 3, 4, 5, 6, 7]
    oracle = Oracle({1: answer}, order)

    def confidence(place: int) -> float:
        logit = torch.tensor(20.0 - place).double().exp()
        return float(logit / (logit + oracle.vocab_size - 1))

    settings = TextSamplingConfig(
        max_new_tokens=8,
        block_length=4,
        num_denoising_steps=2,
        temperature=0.0,
        threshold=(confidence(2) + confidence(3)) / 2,
    )
    spy = Spy(oracle)
    (sample,) = sample_text(spy, [torch.tensor([1])], settings, vocabulary_of(MASK, END), generators=generators(1))
    assert sample.token_ids.tolist() == [1, *answer]
    # The first three at once, the others one at a time; a block counts as many steps as it has tokens.
    assert sample.commit_step.tolist() == [-1, 0, 0, 0, 1, 4, 5, 6, 7]
    assert len(spy.calls) == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 1.0},
        {"temperature": 0.6, "top_p": 0.9},
        {"temperature": 0.0},
        {"temperature": 1.0, "remasking": "random"},
        {"temperature": 1.0, "threshold": 0.2},
    ],
    ids=str,
)
def test_commit_log_probs_are_those_of_the_partly_masked_inputs(model, prompts, changes):
    settings = TextSamplingConfig(max_new_tokens=12, block_length=4, num_denoising_steps=6, **changes)
    samples = sample_text(model, prompts, settings, vocabulary_of(MASK, END), generators=generators(4))
    for sample in samples:
        expected = torch.zeros(len(sample.token_ids))
        for step in sample.commit_step.unique().tolist():
            if step < 0:
                continue
            known = ~sample.response_mask | ((sample.commit_step >= 0) & (sample.commit_step < step))
            logits = model(torch.where(known, sample.token_ids, MASK)[None]).logits[0]
            log_probs = (logits / (settings.temperature or 1.0)).log_softmax(-1).detach()
            now = sample.commit_step == step
            expected[now] = log_probs[now].gather(1, sample.token_ids[now, None])[:, 0]
        torch.testing.assert_close(sample.commit_log_probs, expected, rtol=1e-4, atol=1e-4)
        assert (sample.commit_log_probs[sample.commit_step >= 0] < 0).all()


def test_the_mask_token_is_never_drawn():
    def model(tokens: torch.Tensor, *, attention_mask: torch.Tensor | None, positions: torch.Tensor) -> Any:
        logits = torch.zeros(int(positions.sum()), 50)
        logits[:, MASK] = 30.0
        logits[:, 11] = 10.0
        return Logits(logits)

    for temperature in (0.0, 1.0):
        settings = TextSamplingConfig(max_new_tokens=8, block_length=4, num_denoising_steps=4, temperature=temperature)
        (sample,) = sample_text(
            model, [torch.tensor([1])], settings, vocabulary_of(MASK, END), generators=generators(1)
        )
        assert sample.token_ids.tolist() == [1] + [11] * 8
        # Its log-probability is still that among all tokens, the mask included, as training computes it.
        torch.testing.assert_close(sample.commit_log_probs[1:], torch.full((8,), -20.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("top_p", [0.6, 1.0])
def test_tokens_are_drawn_with_their_probabilities_and_never_outside_top_p(top_p):
    probs = torch.tensor([0.02, 0.4, 0.3, 0.2, 0.08])

    def model(tokens: torch.Tensor, *, attention_mask: torch.Tensor | None, positions: torch.Tensor) -> Any:
        never = torch.tensor([-1e4])
        return Logits(torch.cat([probs.log() / 2, never]).expand(int(positions.sum()), 6))

    count = 4000
    settings = TextSamplingConfig(
        max_new_tokens=count, block_length=count, num_denoising_steps=1, temperature=0.5, top_p=top_p
    )
    (sample,) = sample_text(model, [torch.tensor([1])], settings, vocabulary_of(5, 0), generators=generators(1))
    drawn = sample.token_ids[1:].bincount(minlength=5) / count
    expected = probs if top_p == 1 else torch.tensor([0.0, 4 / 7, 3 / 7, 0.0, 0.0])
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((drawn - expected).abs() <= 4 * deviation).all(), drawn


# Errors.


def test_a_prompt_with_the_mask_token_is_refused(model):
    settings = TextSamplingConfig(max_new_tokens=4, block_length=4, num_denoising_steps=1)
    with pytest.raises(ValueError, match=r"prompt 1 contains the mask token 37"):
        sample_text(
            model,
            [torch.tensor([1]), torch.tensor([2, MASK])],
            settings,
            vocabulary_of(MASK, END),
            generators=generators(2),
        )


def test_an_empty_prompt_is_refused_under_guidance_only(model):
    prompts = [torch.tensor([], dtype=torch.long)]
    settings = TextSamplingConfig(max_new_tokens=4, block_length=4, num_denoising_steps=1)
    (sample,) = sample_text(model, prompts, settings, vocabulary_of(MASK, END), generators=generators(1))
    assert len(sample.token_ids) == 4
    guided = TextSamplingConfig(max_new_tokens=4, block_length=4, num_denoising_steps=1, guidance_scale=1.0)
    with pytest.raises(ValueError, match=r"prompt 0 is empty, so guidance_scale 1\.0"):
        sample_text(model, prompts, guided, vocabulary_of(MASK, END), generators=generators(1))


def test_one_generator_per_prompt_is_required(model, prompts):
    settings = TextSamplingConfig(max_new_tokens=4, block_length=4, num_denoising_steps=1)
    with pytest.raises(ValueError, match=r"3 generators for 4 prompts"):
        sample_text(model, prompts, settings, vocabulary_of(MASK, END), generators=generators(3))


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {"temperature": 1.0}, {"threshold": 0.5}], ids=str)
def test_logits_that_are_no_numbers_are_an_error_and_not_an_empty_response(model, prompts, changes):
    torch.nn.init.constant_(model.transformer.ln_f.weight, float("nan"))
    settings = TextSamplingConfig(max_new_tokens=4, block_length=4, num_denoising_steps=2, **changes)
    with pytest.raises(ValueError, match=r"logits.*not finite"):
        sample_text(model, prompts, settings, vocabulary_of(MASK, END), generators=generators(4))


def test_no_prompts_give_no_samples(model):
    settings = TextSamplingConfig(max_new_tokens=4, block_length=4, num_denoising_steps=2)
    assert sample_text(model, [], settings, vocabulary_of(MASK, END), generators=[]) == []
