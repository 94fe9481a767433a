"""Tests that reward functions in the forms of the documentation of TRL, OpenRLHF and verl run unchanged."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rewards.base import RewardInput
from rewards.functions import FunctionReward

STRINGS = [
    RewardInput(
        prompt="2+3=", completion=r"It is \boxed{5}", label="5", completion_ids=(11, 12, 13), prompt_ids=(1, 2),
        metadata={"solution": "5", "task": "math", "level": 1},
    ),
    RewardInput(
        prompt="Say hi", completion="<think>polite</think><answer>hi</answer>", label="hi", completion_ids=(14,),
        prompt_ids=(3,), metadata={"solution": "hi", "task": "talk"},
    ),
]  # fmt: skip
CHATS = [
    RewardInput(prompt=i.prompt, completion=i.completion, label=i.label, metadata=i.metadata, messages=messages)
    for i, messages in zip(
        STRINGS,
        [
            ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+3="}),
            ({"role": "user", "content": "Say hi"},),
        ],
        strict=True,
    )
]


def trl_token_count(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]


def trl_text_length(completions, **kwargs):
    return [float(len(text)) for text in completions]


def trl_format_of_messages(completions, **kwargs):
    contents = [messages[0]["content"] for messages in completions]
    return [float(bool(re.match(r"^<think>.*?</think><answer>.*?</answer>$", text))) for text in contents]


def trl_boxed_column(completions, ground_truth, **kwargs):
    found = [re.search(r"\\boxed\{(.*?)\}", text) for text in completions]
    return [float(f is not None and f.group(1) == gold) for f, gold in zip(found, ground_truth, strict=True)]


def trl_one_task_only(prompts, completions, task, **kwargs):
    return [float("5" in text) if kind == "math" else None for text, kind in zip(completions, task, strict=True)]


async def trl_async(prompts, completions, **kwargs):
    await asyncio.sleep(0)
    return [float(text.startswith("It")) for text in completions]


def trl_logs(completions, answer, log_extra=None, log_metric=None, **kwargs):
    hits = [float(gold in text) for text, gold in zip(completions, answer, strict=True)]
    if log_extra:
        log_extra("gold", answer)
    if log_metric:
        log_metric("accuracy", sum(hits) / len(hits))
    return hits


def trl_prompt_ids(prompts, completions, prompt_ids, trainer_state=None, **kwargs):
    return [float(sum(ids)) for ids in prompt_ids]


def trl_kwargs_column(completions, **kwargs):
    gold = kwargs.get("solution")
    return (
        [0.5] * len(completions) if gold is None else [float(g in c) for c, g in zip(completions, gold, strict=True)]
    )


def trl_kwargs_messages(completions, **kwargs):
    return [float(kwargs["answer"][i] in messages[0]["content"]) for i, messages in enumerate(completions)]


def _text(messages: list[dict[str, str]]) -> str:
    return messages[-1]["content"]


def trl_messages_by_a_helper(prompts, completions, **kwargs):
    return [float(len(_text(p)) < len(_text(c))) for p, c in zip(prompts, completions, strict=True)]


class TrlObject:
    def __call__(self, completions, **kwargs):
        return [float(len(m[0]["content"])) for m in completions]


LENGTHS = [15.0, 40.0]


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (trl_token_count, [3, 1]),
        (trl_text_length, LENGTHS),
        (trl_format_of_messages, [0, 1]),
        (trl_boxed_column, [1, 0]),
        (trl_one_task_only, [1, None]),
        (trl_async, [1, 0]),
        (trl_logs, [1, 1]),
        (trl_prompt_ids, [3, 3]),
        (trl_kwargs_column, [1, 1]),
        (trl_kwargs_messages, [1, 1]),
        (trl_messages_by_a_helper, [1, 1]),
        (TrlObject(), LENGTHS),
        (functools.partial(trl_text_length, bonus=1), LENGTHS),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_trl_functions_run_on_prompts_that_are_strings(function: Callable[..., Any], values: list[float | None]):
    reward = FunctionReward(function, "mine")
    assert reward.style == "trl"
    for item in STRINGS:
        reward.check_prompt(item)
    assert reward(STRINGS) == values


def test_a_chat_prompt_makes_prompts_and_completions_messages():
    seen: dict[str, Any] = {}

    def keep(prompts, completions, **kwargs):
        seen.update(prompts=prompts, completions=completions)
        return [0.0] * len(completions)

    FunctionReward(keep, "keep")(CHATS)
    assert seen["prompts"][0] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+3="}]
    assert seen["completions"][1] == [{"role": "assistant", "content": STRINGS[1].completion}]
    assert FunctionReward(trl_format_of_messages, "mine")(CHATS) == [0, 1]


def test_trl_metrics_are_logged():
    reward = FunctionReward(trl_logs, "mine")
    reward(STRINGS)
    assert reward.logs() == {"accuracy": 1.0}


def test_a_column_that_some_prompts_lack_is_none_there():
    seen: dict[str, Any] = {}
    FunctionReward(lambda completions, **kwargs: seen.update(kwargs) or [0.0, 0.0], "mine")(STRINGS)
    assert seen["level"] == [1, None]
    assert seen["solution"] == ["5", "hi"]
    assert seen["completion_ids"] == [[11, 12, 13], [14]]
    assert seen["labels"] == seen["answer"] == ["5", "hi"]


def openrlhf_batch(queries, prompts, labels):
    texts = [query[len(prompt) :] for query, prompt in zip(queries, prompts, strict=True)]
    scores = torch.tensor([float(label in text) for text, label in zip(texts, labels, strict=True)])
    return {"rewards": scores, "scores": scores, "extra_logs": {"hits": scores}}


def openrlhf_first_of_batch(queries, prompts, labels):
    return torch.tensor([float(labels[0] in queries[0][len(prompts[0]) :])])


@pytest.mark.parametrize("function", [openrlhf_batch, openrlhf_first_of_batch])
def test_openrlhf_functions_take_a_batch_or_one_sample(function):
    reward = FunctionReward(function, "mine")
    assert reward.style == "openrlhf"
    assert reward(STRINGS) == reward(STRINGS) == [1, 1]
    assert reward([RewardInput(prompt="5", completion="4", label="5")]) == [0]


def verl_number(data_source, solution_str, ground_truth, extra_info=None):
    return float(ground_truth in solution_str)


def verl_dictionary(solution_str, ground_truth, extra_info, **kwargs):
    return {"score": float(ground_truth in solution_str), "index": extra_info["index"]}


async def verl_async(data_source, solution_str, ground_truth, extra_info, **kwargs):
    await asyncio.sleep(0)
    return {"score": float(data_source == "gsm8k")}


def verl_batch(data_sources, solution_strs, ground_truths, extra_infos, **kwargs):
    assert [info["index"] for info in extra_infos] == [0, 1]
    return [float(gold in text) for text, gold in zip(solution_strs, ground_truths, strict=True)]


@pytest.mark.parametrize("function", [verl_number, verl_dictionary, verl_async, verl_batch])
def test_verl_functions_get_their_columns(function):
    inputs = [
        RewardInput(
            prompt=i.prompt, completion=i.completion, label=i.label,
            metadata={"data_source": "gsm8k", "extra_info": {"index": n, "split": "train"}},
        )
        for n, i in enumerate(STRINGS)
    ]  # fmt: skip
    reward = FunctionReward(function, "mine")
    assert reward.style == ("verl_batch" if function is verl_batch else "verl")
    assert reward(inputs) == [1, 1]
