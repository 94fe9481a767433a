"""Users' reward functions, called as UniGRPO, TRL, OpenRLHF or verl call theirs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np

from rewards.base import Reward, RewardInput

STYLES = {
    "unigrpo": "f(*, prompts, completions, labels, images, input_images, tasks, metadata, **options): any of these",
    "trl": "f(prompts, completions, **columns): completions as chat messages, columns of the data set as lists",
    "openrlhf": "f(queries, prompts, labels): queries are prompt and completion joined",
    "verl": "f(data_source, solution_str, ground_truth, extra_info): one sample at a time",
}
"""Calling conventions; see https://github.com/huggingface/trl, OpenRLHF/OpenRLHF and verl-project/verl."""

_OURS = {"prompts", "completions", "labels", "images", "input_images", "tasks", "metadata"}
_TRL_ONLY = {"completion_ids", "prompt_ids", "trainer_state", "log_extra", "log_metric"}
_GOLD_COLUMNS = {"answer", "solution", "label", "ground_truth"}


class FunctionReward(Reward):
    """A function, or an object that can be called, in one of the conventions; synchronous or ``async``."""

    range = (float("-inf"), float("inf"))
    unit = "the function's own"

    def __init__(
        self, function: Callable[..., Any], name: str, options: dict[str, Any] | None = None, style: str = "auto"
    ) -> None:
        """Args:
        function: What to call.
        name: Name in metrics and messages.
        options: Further keywords of every call.
        style: A key of :data:`STYLES`, or `auto`.

        Raises:
            ValueError: The signature fits no convention, or more than one.
        """
        self.name = name
        self._function = function
        self._options = options or {}
        parameters = inspect.signature(function).parameters.values()
        self._takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._may_be_trl = (
            self._takes_any
            and {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD} <= {"prompts", "completions"}
            and not any(p.kind is p.KEYWORD_ONLY for p in parameters)
        )
        """``f(completions, **kwargs)``: TRL's would get chat messages, ours texts."""
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        self._parameters = {p.name for p in named}
        self._required = {p.name for p in named if p.default is p.empty} - self._options.keys()
        self._style = self._detect() if style == "auto" else style
        if self._style not in STYLES:
            raise ValueError(f"reward {name!r}: no style {style!r}; choose one of {['auto', *STYLES]}")
        self._logs: dict[str, float] = {}

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        if self._style == "verl":
            return asyncio.run(self._one_by_one(inputs))
        result = self._call_trl(inputs) if self._style == "trl" else self._call_batch(inputs)
        return self._values(asyncio.run(_wait(result)) if inspect.isawaitable(result) else result)

    def check_prompt(self, prompt: RewardInput) -> None:
        """TRL's functions may ask for columns; each prompt must have them."""
        for column in self._columns if self._style == "trl" else ():
            _column(prompt, column)

    def logs(self) -> dict[str, float]:
        logs, self._logs = self._logs, {}
        return logs

    def close(self) -> None:
        getattr(self._function, "close", lambda: None)()

    def _detect(self) -> str:
        is_trl = bool(self._columns or self._parameters & _TRL_ONLY)
        found = [style for style, fits in (
            ("openrlhf", "queries" in self._parameters),
            ("verl", {"solution_str", "ground_truth"} <= self._parameters),
            ("trl", "completions" in self._parameters and (is_trl or self._may_be_trl)),
            ("unigrpo", ("completions" in self._parameters or "images" in self._parameters) and not is_trl),
        ) if fits]  # fmt: skip
        if len(found) == 1:
            return found[0]
        forms = "\n".join(f"  {style}: {form}" for style, form in STYLES.items())
        fit = " and ".join(found) if found else "no convention"
        raise ValueError(
            f"reward {self.name!r}: its signature {inspect.signature(self._function)} fits {fit}; name the parameters "
            f"as one of these, or set the term's `style`:\n{forms}"
        )

    @property
    def _columns(self) -> set[str]:
        """Parameters without a default that only a column of the data can fill."""
        return self._required - _OURS - _TRL_ONLY

    def _call_batch(self, inputs: Sequence[RewardInput]) -> Any:
        if self._style == "openrlhf":
            queries = [i.prompt + i.completion for i in inputs]
            return self._function(queries, [i.prompt for i in inputs], [i.label for i in inputs], **self._options)
        return self._function(**self._accepted(_batch(inputs)), **self._options)

    def _call_trl(self, inputs: Sequence[RewardInput]) -> Any:
        columns = {name: [_column(i, name) for i in inputs] for name in sorted(self._columns)}
        if self._takes_any:
            shared = set.intersection(*(set(i.metadata) for i in inputs))
            columns = {name: [i.metadata[name] for i in inputs] for name in sorted(shared)} | columns
        arguments = {
            "prompts": [[{"role": "user", "content": i.prompt}] for i in inputs],
            "completions": [[{"role": "assistant", "content": i.completion}] for i in inputs],
            "completion_ids": [None] * len(inputs),
            "prompt_ids": [None] * len(inputs),
            "trainer_state": None,
            "log_extra": lambda *_: None,
            "log_metric": self._log,
        }
        return self._function(**self._accepted(arguments | columns), **self._options)

    async def _one_by_one(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        results = []
        for item in inputs:
            arguments = {
                "data_source": item.metadata.get("data_source", ""),
                "solution_str": item.completion,
                "ground_truth": item.label,
                "extra_info": dict(item.metadata),
                "solution_image": None if item.image is None else np.asarray(item.image).transpose(2, 0, 1),
            }
            results.append(self._function(**self._accepted(arguments), **self._options))
        results = [await r if inspect.isawaitable(r) else r for r in results]
        scores = [r["score"] if isinstance(r, dict) else r for r in results]
        for key in {k for r in results if isinstance(r, dict) for k, v in r.items() if isinstance(v, (int, float))}:
            self._log(key, float(np.mean([r[key] for r in results if isinstance(r, dict) and key in r])))
        return self._values(scores)

    def _accepted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments that the function takes and that no option sets."""
        return {
            name: value
            for name, value in arguments.items()
            if (self._takes_any or name in self._parameters) and name not in self._options
        }

    def _log(self, name: str, value: float) -> None:
        self._logs[name] = float(value)

    def _values(self, result: Any) -> list[float | None]:
        """A list from a list, an array, a tensor, or a dict with ``rewards`` and perhaps ``extra_logs``."""
        if isinstance(result, dict):
            for name, value in result.get("extra_logs", {}).items():
                self._log(name, float(np.mean(_plain(value))))
            result = result.get("rewards", result.get("scores"))
        plain = _plain(result)
        if not isinstance(plain, list):
            raise TypeError(f"returned {type(result).__name__}; it must return a list with one number per sample")
        return cast("list[float | None]", plain)


def _plain(values: Any) -> Any:
    """Arrays and tensors as lists."""
    if hasattr(values, "tolist"):
        return values.tolist()
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else values


def _batch(inputs: Sequence[RewardInput]) -> dict[str, list[Any]]:
    return {
        "prompts": [i.prompt for i in inputs],
        "completions": [i.completion for i in inputs],
        "labels": [i.label for i in inputs],
        "images": [i.image for i in inputs],
        "input_images": [i.input_images for i in inputs],
        "tasks": [i.task for i in inputs],
        "metadata": [i.metadata for i in inputs],
    }


def _column(item: RewardInput, name: str) -> Any:
    if name in item.metadata:
        return item.metadata[name]
    if name in _GOLD_COLUMNS:
        return item.label
    raise ValueError(f"the reward function asks for a column {name!r}; the prompt has {sorted(item.metadata)}")


async def _wait(result: Awaitable[Any]) -> Any:
    return await result
