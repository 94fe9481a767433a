"""Tests that functions of users in the four conventions give equal rewards."""

import asyncio

import numpy as np
import pytest
import torch
from PIL import Image

from rewards.base import RewardInput
from rewards.functions import FunctionReward

INPUTS = [
    RewardInput(prompt="p1", completion="abc", label="3", metadata={"level": 1, "solution": "s1"}),
    RewardInput(prompt="p2", completion="abcde", label="5", metadata={"level": 2, "solution": "s2"}),
]
LENGTHS = [3.0, 5.0]


def ours(*, completions, labels, **_):
    assert labels == ["3", "5"]
    return [float(len(text)) for text in completions]


async def ours_async(completions):
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]


def ours_with_option(completions, scale):
    return [scale * len(text) for text in completions]


def trl(completions, solution, **kwargs):
    assert solution == ["s1", "s2"]
    assert kwargs["level"] == [1, 2]
    return [float(len(messages[0]["content"])) for messages in completions]


def trl_gold(completions, answer):
    assert answer == ["3", "5"]
    return [float(len(messages[0]["content"])) for messages in completions]


def openrlhf(queries, prompts, labels):
    assert queries == ["p1abc", "p2abcde"]
    lengths = torch.tensor([float(len(q) - len(p)) for q, p in zip(queries, prompts, strict=True)])
    return {"rewards": lengths, "scores": lengths, "extra_logs": {"mean_length": lengths}}


def verl(data_source, solution_str, ground_truth, extra_info):
    assert ground_truth in ("3", "5")
    return {"score": float(len(solution_str)), "level": extra_info["level"]}


async def verl_async(solution_str, ground_truth):
    return float(len(solution_str))


@pytest.mark.parametrize(
    "function", [ours, ours_async, trl, trl_gold, openrlhf, verl, verl_async], ids=lambda f: f.__name__
)
def test_each_convention_is_recognised_and_called_as_its_own(function):
    assert FunctionReward(function, "mine")(INPUTS) == LENGTHS


def test_options_are_further_keywords():
    assert FunctionReward(ours_with_option, "mine", {"scale": 2})(INPUTS) == [6, 10]


def test_numbers_that_a_function_logs_are_in_the_metrics_once():
    for function, logs in ((openrlhf, {"mean_length": 4.0}), (verl, {"score": 4.0, "level": 1.5})):
        reward = FunctionReward(function, "mine")
        reward(INPUTS)
        assert reward.logs() == logs
        assert reward.logs() == {}


def test_images_are_passed_to_a_function():
    image = Image.new("RGB", (4, 2), (255, 0, 0))
    inputs = [RewardInput(prompt="red", completion="", image=image)]
    assert FunctionReward(lambda *, images: [i.width for i in images], "mine")(inputs) == [4]
    assert FunctionReward(lambda solution_image, solution_str, ground_truth: solution_image[0].mean(), "mine")(
        inputs
    ) == [255.0]


def test_arrays_are_accepted_as_lists():
    assert FunctionReward(lambda *, completions: np.array([1.0, 2.0]), "mine")(INPUTS) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, y: [], "fits no convention"),
        (lambda **anything: [], "fits no convention"),
        (lambda queries, solution_str, ground_truth: [], "fits openrlhf and verl"),
        (lambda queries, prompts, labels, completions: [], "fits openrlhf and trl"),
        (lambda solution_strs, ground_truths, queries: [], "fits openrlhf and verl_batch"),
        (lambda images, chosen: [], "fits no convention"),
    ],
)
def test_an_ambiguous_signature_lists_the_conventions(function, message):
    with pytest.raises(ValueError, match=rf"reward 'mine': its signature .* {message}[\s\S]*openrlhf: f\(queries"):
        FunctionReward(function, "mine")


def test_an_explicit_style_decides():
    chat = FunctionReward(lambda completions, **k: [len(c[0]["content"]) for c in completions], "mine", style="trl")
    assert chat(INPUTS) == [3, 5]
    assert FunctionReward(lambda **k: [len(c) for c in k["completions"]], "mine", style="unigrpo")(INPUTS) == [3, 5]
    with pytest.raises(ValueError, match="no style 'other'; choose one of"):
        FunctionReward(ours, "mine", style="other")


def test_a_missing_column_is_found_before_training():
    reward = FunctionReward(lambda completions, chosen: [], "mine")
    with pytest.raises(ValueError, match=r"needs a column 'chosen'; the prompt has \['level', 'solution'\]"):
        reward.check_prompt(INPUTS[0])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (ours_with_option, r"options of 'mine': no parameter 'scal'; did you mean 'scale'\?"),
        (lambda *, completions: [], r"no parameter 'scal'; it takes \['completions'\]"),
    ],
)
def test_an_option_that_the_signature_lacks_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        FunctionReward(function, "mine", {"scal": 2})


def test_a_function_of_any_keywords_takes_any_option():
    assert FunctionReward(lambda completions, **k: [k["scal"]] * 2, "mine", {"scal": 2})(INPUTS) == [2, 2]


def test_a_single_number_is_no_list():
    with pytest.raises(TypeError, match="returned float; it must return a list"):
        FunctionReward(lambda *, completions: 1.0, "mine")(INPUTS)


def test_close_is_called_on_the_object():
    class Counter:
        closed = False

        def __call__(self, *, completions):
            return [0.0] * len(completions)

        def close(self):
            self.closed = True

    counter = Counter()
    FunctionReward(counter, "Counter").close()
    assert counter.closed


def test_a_function_gets_the_lengths_of_the_texts():
    def lengths(*, completions, num_tokens, is_full_length):
        return [n + 0.5 * full for n, full in zip(num_tokens, is_full_length, strict=True)]

    def in_trl_style(completions, **kwargs):
        return lengths(
            completions=completions, num_tokens=kwargs["num_tokens"], is_full_length=kwargs["is_full_length"]
        )

    items = [RewardInput(prompt="", completion="", num_tokens=n, is_full_length=n > 1) for n in (1, 2)]
    for function, style in ((lengths, "unigrpo"), (in_trl_style, "trl")):
        reward = FunctionReward(function, "lengths")
        assert reward.style == style
        assert reward(items) == [1.0, 2.5]
