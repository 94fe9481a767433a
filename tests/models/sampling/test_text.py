"""Compares text sampling in batches, one by one and with a recomputation, and tests it with models of known
answers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling import text as text_sampling

MASK, END = 37, 24
SETTINGS = {"max_new_tokens": 12, "block_length": 4, "num_denoising_steps": 6}


class Spy:
    """A model that records its calls."""

    def __init__(self, model):
        self.model, self.calls = model, []

    def __call__(self, tokens, *, attention_mask, positions, num_positions):
        self.calls.append(SimpleNamespace(tokens=tokens.clone(), mask=attention_mask, positions=positions.clone()))
        return self.model(tokens, attention_mask=attention_mask, positions=positions, num_positions=num_positions)


class Oracle:
    """A model that knows the answer to each prompt by its last token. Its confidence falls along the positions
    ``order``."""

    vocab_size = 50

    def __init__(self, answers, order):
        self.answers, self.order = answers, order

    def __call__(self, tokens, *, attention_mask, positions, num_positions):
        logits = torch.zeros(*tokens.shape, self.vocab_size)
        start = tokens.shape[1] - len(self.order)
        for row in range(len(tokens)):
            answer = self.answers[int(tokens[row, start - 1])]
            for rank, place in enumerate(self.order):
                logits[row, start + place, answer[place]] = 10.0 - rank
        return SimpleNamespace(logits=logits[positions])

    def confidence(self, rank):
        """Returns the probability of the answer at the position of this rank."""
        odds = torch.tensor(10.0 - rank).double().exp() / (self.vocab_size - 1)
        return float(odds / (1 + odds))


def constant(logits):
    """Returns a model that gives the same logits everywhere."""
    return lambda tokens, *, attention_mask, positions, num_positions: SimpleNamespace(
        logits=logits.expand(int(positions.sum()), len(logits))
    )


@pytest.fixture
def model():
    """Returns a model with random weights and 50 ids, whose predictions depend on all tokens and have a high
    entropy."""
    torch.manual_seed(0)
    config = MMadaConfig(d_model=16, n_layers=2, n_heads=2, mlp_hidden_size=32, vocab_size=50, init_std=0.4)
    return MMadaModelLM(config).eval()


@pytest.fixture
def prompts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(2, 20, (length,), generator=generator) for length in (3, 9, 1, 6)]


# A sample depends only on its own prompt and generator.


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
def test_a_batch_of_mixed_lengths_equals_one_by_one(sample, model, prompts, changes):
    def ending(tokens, **kwargs):
        """Makes end-of-text so likely that samples leave the batch at different times."""
        out = model(tokens, **kwargs)
        out.logits[:, END] += 2.2
        return out

    together = sample(ending, prompts, **SETTINGS, **changes)
    if changes.get("stop_at_end_of_text", True):
        assert len({int((one.commit_step >= 0).sum()) for one in together}) > 1, "all samples end at the same time"
    for i, prompt in enumerate(prompts):
        (alone,) = sample(ending, [prompt], seeds=[i], **SETTINGS, **changes)
        assert torch.equal(together[i].token_ids, alone.token_ids)
        assert torch.equal(together[i].commit_step, alone.commit_step)
        assert torch.equal(together[i].scored_mask, alone.scored_mask)
        torch.testing.assert_close(together[i].commit_log_probs, alone.commit_log_probs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
def test_another_generator_gives_another_sample(sample, model, prompts, remasking):
    first, again, other = (
        sample(model, prompts, seeds=seeds, remasking=remasking, **SETTINGS)
        for seeds in ([0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7])
    )
    assert all(torch.equal(a.token_ids, b.token_ids) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a.token_ids, b.token_ids) for a, b in zip(first, other, strict=True))


def test_random_remasking_fixes_positions_in_a_uniformly_random_order(sample):
    settings = {"max_new_tokens": 4, "block_length": 4, "num_denoising_steps": 4, "remasking": "random"}
    oracle = Oracle({1: [10, 11, 12, 13]}, [0, 1, 2, 3])
    samples = sample(oracle, [torch.tensor([1])] * 400, temperature=0.0, **settings)
    assert all(s.token_ids.tolist() == [1, 10, 11, 12, 13] for s in samples)
    step_of_first = torch.stack([s.commit_step[1] for s in samples]).bincount(minlength=4)
    assert ((step_of_first - 100).abs() < 4 * (400 * 0.25 * 0.75) ** 0.5).all(), step_of_first


# Tests of the computed positions.


def test_the_head_is_computed_at_the_masked_positions_of_the_block_only(sample, model, prompts):
    spy = Spy(model)
    sample(spy, prompts, temperature=0.0, stop_at_end_of_text=False, **SETTINGS)
    longest = 9
    assert len(spy.calls) == 6
    for number, call in enumerate(spy.calls):
        first = longest + 4 * (number // 2)
        in_block = torch.zeros_like(call.positions)
        in_block[:, first : first + 4] = True
        assert torch.equal(call.positions, in_block & (call.tokens == MASK))
        assert (call.positions.sum(dim=1) == (4 if number % 2 == 0 else 2)).all()


def test_steps_that_fix_no_token_are_not_computed(sample, model, prompts):
    spy = Spy(model)
    sample(spy, prompts, max_new_tokens=8, block_length=4, num_denoising_steps=24, stop_at_end_of_text=False)
    assert len(spy.calls) == 8


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({"temperature": 0.0}, []),
        ({"temperature": 1.0, "top_p": 0.8}, []),
        ({"temperature": 1.0}, [16, 8] * 3),  # 4 prompts have a block of 4 tokens each, of which a step fixes 2
        ({"temperature": 1.0, "remasking": "random"}, [8] * 6),
    ],
    ids=str,
)
def test_noise_over_the_vocabulary_is_drawn_only_for_tokens_that_may_be_fixed(
    sample, model, prompts, monkeypatch, changes, numbers
):
    drawn, draw = [], text_sampling.exponential_noise
    monkeypatch.setattr(
        text_sampling, "exponential_noise", lambda counts, *more: drawn.append(sum(counts)) or draw(counts, *more)
    )
    sample(model, prompts, stop_at_end_of_text=False, **SETTINGS, **changes)
    assert drawn == numbers


class Waits(TorchDispatchMode):
    """Counts the operations for whose result the host must wait."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func is torch.ops.aten.index.Tensor and any(i.dtype == torch.bool for i in args[1] if i is not None)
        self.count += by_mask or func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_the_steps_of_a_block_do_not_wait_for_the_device(sample, model, prompts, cache):
    counts = []
    for num_steps in (2, 8):
        with Waits() as waits:
            sample(model, prompts, max_new_tokens=8, block_length=8, num_denoising_steps=num_steps, cache=cache)
        counts.append(waits.count)
    assert counts[0] == counts[1] > 0, "the host waits only at the end of the block"


def test_padding_is_masked_in_the_attention(sample, model, prompts):
    spy = Spy(model)
    sample(spy, prompts, max_new_tokens=4, block_length=4, num_denoising_steps=1)
    assert torch.equal(spy.calls[0].mask, torch.arange(13) >= torch.tensor([6, 0, 8, 3])[:, None])
    sample(spy, prompts[:1], max_new_tokens=4, block_length=4, num_denoising_steps=1)
    assert spy.calls[1].mask is None, "without padding there is no attention mask"


def test_finished_samples_and_their_padding_leave_the_batch(sample):
    answers = {
        1: [10, 11, 12, END, 13, 14, 15, 16],  # the end is in the second block
        2: [10, 11, 12, 13, END, 14, 15, 16],
        3: [10, 11, 12, 13, 14, 15, END, 16],
    }
    prompts = [torch.tensor([5, 5, 5, 1]), torch.tensor([2]), torch.tensor([END, 3])]
    spy = Spy(Oracle(answers, [0, 1, 2, 3, 4, 5, 6, 7]))
    samples = sample(spy, prompts, max_new_tokens=8, block_length=2, num_denoising_steps=4, temperature=0.0)
    assert [tuple(call.tokens.shape) for call in spy.calls] == [(3, 12), (3, 12), (2, 10), (1, 10)]
    assert [s.token_ids.tolist() for s in samples] == [
        [5, 5, 5, 1, 10, 11, 12] + [END] * 5,
        [2, 10, 11, 12, 13, END, 14, END, END],
        [END, 3, 10, 11, 12, 13, 14, 15, END, 16],
    ]
    assert [int(s.response_mask.sum()) for s in samples] == [8, 8, 8]
    assert [int(s.scored_mask.sum()) for s in samples] == [4, 5, 7]
    assert [s.commit_step[s.response_mask].tolist() for s in samples] == [
        [0, 0, 1, 1, -1, -1, -1, -1],
        [0, 0, 1, 1, 2, 2, -1, -1],
        [0, 0, 1, 1, 2, 2, 3, 3],
    ]


# Tests of the fixed tokens and their log-probabilities.


def test_the_tokens_with_the_highest_confidence_are_fixed_first_within_their_block(sample):
    answer = [10, 11, 12, 13, 14, 15, 16, 17]
    oracle = Oracle({1: answer}, order=[6, 2, 0, 5, 7, 1, 3, 4])
    (one,) = sample(
        oracle, [torch.tensor([1])], max_new_tokens=8, block_length=4, num_denoising_steps=4, temperature=0.0
    )
    assert one.token_ids.tolist() == [1, *answer]
    assert one.commit_step.tolist() == [-1, 0, 1, 0, 1, 3, 2, 2, 3]
    assert torch.equal(one.scored_mask, one.response_mask), "without end-of-text the whole response is scored"


def test_a_threshold_fixes_all_tokens_above_it_and_at_least_one(sample):
    answer = [10, 11, 12, 13, 14, 15, 16, 17]
    oracle = Oracle({1: answer}, order=[0, 1, 2, 3, 4, 5, 6, 7])
    spy = Spy(oracle)
    threshold = (oracle.confidence(2) + oracle.confidence(3)) / 2
    settings = {"max_new_tokens": 8, "block_length": 4, "num_denoising_steps": 2, "temperature": 0.0}
    (one,) = sample(spy, [torch.tensor([1])], threshold=threshold, **settings)
    assert one.token_ids.tolist() == [1, *answer]
    # The first three are fixed at once, and the others one at a time. Each token of a block counts as a step.
    assert one.commit_step.tolist() == [-1, 0, 0, 0, 1, 4, 5, 6, 7]
    assert len(spy.calls) == 6


def test_confidence_is_computed_without_the_temperature(sample):
    # Both confidences are above the threshold at temperature 0.5 (0.998, 0.994), and below it at 1 (0.75, 0.65).
    oracle = Oracle({1: [10, 11]}, order=[0, 1])
    spy = Spy(lambda tokens, **kwargs: SimpleNamespace(logits=oracle(tokens, **kwargs).logits / 2))
    settings = {"max_new_tokens": 2, "block_length": 2, "num_denoising_steps": 1, "temperature": 0.5}
    (one,) = sample(spy, [torch.tensor([1])], threshold=0.9, **settings)
    assert one.commit_step.tolist() == [-1, 0, 1]


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
def test_commit_log_probs_are_those_of_the_partly_masked_inputs(sample, model, prompts, changes):
    for one in sample(model, prompts, **SETTINGS, **changes):
        expected = torch.zeros(len(one.token_ids))
        for step in range(int(one.commit_step.max()) + 1):
            known = ~one.response_mask | ((one.commit_step >= 0) & (one.commit_step < step))
            logits = model(torch.where(known, one.token_ids, MASK)[None]).logits[0].detach()
            log_probs = (logits / (changes.get("temperature") or 1.0)).log_softmax(-1)
            now = one.commit_step == step
            expected[now] = log_probs[now].gather(1, one.token_ids[now, None])[:, 0]
        torch.testing.assert_close(one.commit_log_probs, expected, rtol=1e-4, atol=1e-4)
        assert (one.commit_log_probs[one.commit_step >= 0] < 0).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_mask_token_is_never_sampled(sample, temperature):
    logits = torch.zeros(50)
    logits[MASK], logits[11] = 30.0, 10.0
    (one,) = sample(constant(logits), [torch.tensor([1])], temperature=temperature, **SETTINGS)
    assert MASK not in one.token_ids
    # Log-probabilities are those among all tokens including the mask, as in training.
    expected = torch.where(one.token_ids == 11, -20.0, -30.0)[1:]
    torch.testing.assert_close(one.commit_log_probs[1:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("top_p", [0.6, 1.0])
def test_tokens_are_sampled_with_their_probabilities_and_never_outside_top_p(sample, top_p):
    probs = torch.tensor([0.02, 0.4, 0.3, 0.2, 0.08])
    logits = torch.cat([probs.log() / 2, torch.tensor([-1e4])])  # the last logit is that of the mask
    count = 4000
    settings = {"max_new_tokens": count, "block_length": count, "num_denoising_steps": 1, "temperature": 0.5}
    (one,) = sample(constant(logits), [torch.tensor([1])], mask_id=5, end_id=0, top_p=top_p, **settings)
    drawn = one.token_ids[1:].bincount(minlength=5) / count
    expected = probs if top_p == 1 else torch.tensor([0.0, 4 / 7, 3 / 7, 0.0, 0.0])
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((drawn - expected).abs() <= 4 * deviation).all(), drawn


# Tests of errors.


def test_a_prompt_with_the_mask_token_is_refused(sample, model):
    with pytest.raises(ValueError, match="prompt 1 contains the mask token 37"):
        sample(model, [torch.tensor([1]), torch.tensor([2, MASK])], **SETTINGS)


def test_an_empty_prompt_is_refused_under_guidance_only(sample, model):
    empty = [torch.zeros(0, dtype=torch.long)]
    assert len(sample(model, empty, **SETTINGS)[0].token_ids) == 12
    with pytest.raises(ValueError, match=r"prompt 0 is empty, so guidance_scale 1\.0"):
        sample(model, empty, guidance_scale=1.0, **SETTINGS)


def test_one_generator_per_prompt_is_required(sample, model, prompts):
    with pytest.raises(ValueError, match="3 generators for 4 prompts"):
        sample(model, prompts, seeds=[0, 1, 2], **SETTINGS)


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {"remasking": "random"}, {"threshold": 0.5}], ids=str)
def test_logits_of_nan_are_an_error_and_not_an_empty_response(sample, model, prompts, changes):
    torch.nn.init.constant_(model.transformer.ln_f.weight, float("nan"))
    with pytest.raises(ValueError, match="logits are not finite"):
        sample(model, prompts, **SETTINGS, **changes)


def test_no_prompts_give_no_samples(sample, model):
    assert sample(model, [], **SETTINGS) == []
