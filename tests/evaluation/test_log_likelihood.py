"""Compares the bound with the sum over all masks, and the trace with a loop over whole logits."""

import itertools

import pytest
import torch

from unigrpo.evaluation.log_likelihood import bound_log_likelihood, trace_log_likelihood
from unigrpo.models.mmada import MMadaModelLM

PROMPT, RESPONSE = torch.tensor([0, 20, 21]), torch.tensor([30, 31, 32])


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    return MMadaModelLM.from_pretrained(tiny_model_folder).eval()


def masked_log_probs(model, hidden):
    """Returns the log-probabilities (R,) of the tokens of the response if a set of them is masked."""
    row = torch.cat([PROMPT, RESPONSE])
    for place in hidden:
        row[len(PROMPT) + place] = model.config.mask_token_id
    with torch.no_grad():
        log_probs = model(row[None]).logits[0].double().log_softmax(-1)
    return log_probs[len(PROMPT) :].gather(1, RESPONSE[:, None])[:, 0]


def test_the_bound_is_the_mean_over_all_masks_that_it_draws_from(model):
    length = len(RESPONSE)
    exact = 0.0
    for number in range(1, length + 1):
        subsets = list(itertools.combinations(range(length), number))
        sums = [masked_log_probs(model, hidden)[list(hidden)].sum().item() for hidden in subsets]
        exact += sum(sums) / len(sums) / number  # the number l has the probability 1 / R and the weight R / l
    found = [
        bound_log_likelihood(
            model, PROMPT, RESPONSE, model.config.mask_token_id, num_samples=300, batch_size=64,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in range(8)
    ]  # fmt: skip
    assert torch.tensor(found).std() < 0.2
    assert sum(found) / len(found) == pytest.approx(exact, abs=0.1)


def test_the_bound_depends_on_the_generator_alone_and_not_on_the_batch(model):
    found = [
        bound_log_likelihood(
            model, PROMPT, RESPONSE, model.config.mask_token_id, num_samples=10, batch_size=batch_size,
            generator=torch.Generator().manual_seed(5),
        )
        for batch_size in (1, 3, 10)
    ]  # fmt: skip
    assert found == pytest.approx([found[0]] * 3, abs=1e-4)


def test_a_response_of_one_token_has_its_own_log_probability(model):
    response = RESPONSE[:1]
    row = torch.cat([PROMPT, torch.tensor([model.config.mask_token_id])])
    with torch.no_grad():
        alone = model(row[None]).logits[0, -1].double().log_softmax(-1)[response].item()
    generator = torch.Generator().manual_seed(0)
    mask_id = model.config.mask_token_id
    bound = bound_log_likelihood(model, PROMPT, response, mask_id, num_samples=4, batch_size=4, generator=generator)
    assert bound == pytest.approx(alone, abs=1e-5)
    assert trace_log_likelihood(model, PROMPT, response, mask_id).nats == pytest.approx(alone, abs=1e-5)


def test_the_trace_reveals_the_most_certain_position_first(model):
    hidden, total = {0, 1, 2}, 0.0
    order = []
    while hidden:
        row = torch.cat([PROMPT, RESPONSE])
        for place in hidden:
            row[len(PROMPT) + place] = model.config.mask_token_id
        with torch.no_grad():
            log_probs = model(row[None]).logits[0].log_softmax(-1)[len(PROMPT) :]
        place = max(sorted(hidden), key=lambda p: log_probs[p].max().item())
        total += log_probs[place, RESPONSE[place]].item()
        order.append(place)
        hidden.remove(place)
    found = trace_log_likelihood(model, PROMPT, RESPONSE, model.config.mask_token_id)
    assert found.nats == pytest.approx(total, abs=1e-4)
    assert not found.is_greedy
    at_once = trace_log_likelihood(model, PROMPT, RESPONSE, model.config.mask_token_id, tokens_per_step=3)
    assert at_once.nats == pytest.approx(masked_log_probs(model, [0, 1, 2]).sum().item(), abs=1e-4)
