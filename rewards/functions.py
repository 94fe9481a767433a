"""Reward functions of users in the calling conventions of UniGRPO, TRL, OpenRLHF and verl."""

from __future__ import annotations

import asyncio
import difflib
import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from rewards.base import Reward, RewardInput

STYLES = {
    "unigrpo": "f(*, prompts, completions, labels, images, input_images, tasks, metadata, num_tokens, is_full_length, "
    "**options): any of these",
    "trl": "f(completions, <columns>, **kwargs): columns of the data set as lists; strings, or messages for chats",
    "openrlhf": "f(queries, prompts, labels): a query is a prompt followed by its completion",
    "verl": "f(data_source, solution_str, ground_truth, extra_info): one sample at a time",
    "verl_batch": "f(data_sources, solution_strs, ground_truths, extra_infos): a batch of samples",
}
"""Calling conventions; see https://github.com/huggingface/trl, OpenRLHF/OpenRLHF and verl-project/verl.

A TRL function gets prompts and completions as strings, or as chat messages if the prompt file has prompts as chats. A
function whose code reads the key ``"content"`` always gets messages.
"""

_OURS = {
    "prompts", "completions", "labels", "images", "input_images", "tasks", "metadata", "num_tokens", "is_full_length",
}  # fmt: skip
_TRL_ONLY = {"completion_ids", "prompt_ids", "trainer_state", "log_extra", "log_metric"}
_VERL_BATCH = {
    "data_sources": "data_source",
    "solution_strs": "solution_str",
    "ground_truths": "ground_truth",
    "extra_infos": "extra_info",
}
"""Keywords of verl's batched functions, and those of its functions of one sample."""
_GOLD_COLUMNS = {"answer", "solution", "label", "ground_truth"}
"""Names under which a TRL function finds the gold answer even if the prompt file has it under another one."""


class FunctionReward(Reward):
    """A function or a callable object in one of the conventions, synchronous or ``async``."""

    range = (float("-inf"), float("inf"))
    unit = "the function's own"

    def __init__(
        self, function: Callable[..., Any], name: str, options: dict[str, Any] | None = None, style: str = "auto"
    ) -> None:
        """Finds the convention and checks the options against the signature.

        Args:
            function: The function or the callable object.
            name: Name in metrics and messages.
            options: Further keywords of every call.
            style: A key of :data:`STYLES`, or `auto` to find it by the names of the parameters.

        Raises:
            ValueError: The signature fits no convention or more than one, or it has no parameter for an option.
        """
        self.name = name
        self._function = function
        self._options = options or {}
        parameters = inspect.signature(function).parameters.values()
        self._takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._has_keyword_only = any(p.kind is p.KEYWORD_ONLY for p in parameters)
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        self._parameters = {p.name for p in named}
        self._required = {p.name for p in named if p.default is p.empty} - self._options.keys()
        self._check_options()
        self.style = self._detect() if style == "auto" else style
        if self.style not in STYLES:
            raise ValueError(f"reward {name!r}: no style {style!r}; choose one of {['auto', *STYLES]}")
        self._reads_messages = _names_constant(function, "content")
        self._takes_one_sample = False
        self._logs: dict[str, float] = {}

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        call = {
            "unigrpo": self._call_unigrpo,
            "trl": self._call_trl,
            "openrlhf": self._call_openrlhf,
            "verl": self._call_verl,
            "verl_batch": self._call_verl_batch,
        }[self.style]
        return call(inputs)

    def check_prompt(self, prompt: RewardInput) -> None:
        """Raises ValueError if the prompt lacks a column that a function in TRL's convention requires."""
        for column in sorted(self._columns) if self.style == "trl" else ():
            if column not in prompt.metadata and column not in _GOLD_COLUMNS:
                raise ValueError(
                    f"the reward function needs a column {column!r}; the prompt has {sorted(prompt.metadata)}"
                )

    def logs(self) -> dict[str, float]:
        logs, self._logs = self._logs, {}
        return logs

    def close(self) -> None:
        getattr(self._function, "close", lambda: None)()

    def _check_options(self) -> None:
        unknown = sorted(self._options.keys() - self._parameters)
        if unknown and not self._takes_any:
            close = difflib.get_close_matches(unknown[0], self._parameters, n=1)
            raise ValueError(
                f"reward.terms: options of {self.name!r}: no parameter {unknown[0]!r}"
                + (f"; did you mean {close[0]!r}?" if close else f"; it takes {sorted(self._parameters)}")
            )

    def _detect(self) -> str:
        """Returns the convention that fits the names of the parameters.

        =============================================  ==========
        parameters                                     convention
        =============================================  ==========
        ``queries``                                    openrlhf
        ``solution_str`` and ``ground_truth``          verl
        ``solution_strs`` and ``ground_truths``        verl_batch
        ``completions`` and a column, or ``**kwargs``  trl
        one of TRL's own, such as ``completion_ids``   trl
        ``completions`` or ``images``, no more         unigrpo
        =============================================  ==========
        """
        names = self._parameters
        has_completions = "completions" in names
        takes_any_as_trl = self._takes_any and not self._has_keyword_only and names <= {"prompts", "completions"}
        is_trl = bool(names & _TRL_ONLY) or (has_completions and (bool(self._columns) or takes_any_as_trl))
        found = [style for style, fits in (
            ("openrlhf", "queries" in names),
            ("verl", {"solution_str", "ground_truth"} <= names),
            ("verl_batch", {"solution_strs", "ground_truths"} <= names),
            ("trl", is_trl),
            ("unigrpo", (has_completions or "images" in names) and not is_trl and not self._columns),
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
        """Parameters without a default that must be columns of the data."""
        return self._required - _OURS - _TRL_ONLY

    def _call_unigrpo(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return self._values(self._result(**self._accepted(_batch(inputs))))

    def _call_trl(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        is_chat = self._reads_messages or any(i.messages for i in inputs)
        own = {
            "prompts": [_messages_of(i) if is_chat else i.prompt for i in inputs],
            "completions": [_reply(i) if is_chat else i.completion for i in inputs],
            "completion_ids": [list(i.completion_ids) for i in inputs],
            "prompt_ids": [list(i.prompt_ids) for i in inputs],
            "trainer_state": None,
            "log_extra": lambda *_: None,
            "log_metric": self._log,
        }
        golds = {name: [i.label for i in inputs] for name in _GOLD_COLUMNS}
        names = {name for item in inputs for name in item.metadata}
        columns = {name: [i.metadata.get(name) for i in inputs] for name in names}
        return self._values(self._result(**self._accepted(_batch(inputs) | golds | columns | own)))

    def _call_openrlhf(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        """Calls the function with all samples, or one by one if it accepts only one sample, as OpenRLHF calls it."""
        if not self._takes_one_sample:
            values = self._openrlhf_values(inputs)
            if len(values) == len(inputs):
                return values
            self._takes_one_sample = True
        return [value for item in inputs for value in self._openrlhf_values([item])]

    def _openrlhf_values(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        queries = [i.prompt + i.completion for i in inputs]
        result = self._result(queries, [i.prompt for i in inputs], [i.label for i in inputs])
        return self._values(result, is_one_sample=True)

    def _call_verl(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        results = [self._function(**self._accepted(_verl_sample(i)), **self._options) for i in inputs]
        return self._verl_values(asyncio.run(_all(results)) if any(map(inspect.isawaitable, results)) else results)

    def _call_verl_batch(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        samples = [_verl_sample(i) for i in inputs]
        batch = {many: [sample[one] for sample in samples] for many, one in _VERL_BATCH.items()}
        return self._verl_values(_plain(self._result(**self._accepted(batch))))

    def _verl_values(self, results: Any) -> list[float | None]:
        """Returns the scores of results that are numbers, or dictionaries whose other numbers are logged as
        metrics."""
        if not isinstance(results, list):
            raise TypeError(f"returned {type(results).__name__}; it must return a list with one result per sample")
        details = [r for r in results if isinstance(r, dict)]
        for key in {key for r in details for key, value in r.items() if isinstance(value, int | float)}:
            self._log(key, float(np.mean([r[key] for r in details if key in r])))
        return self._values([r["score"] if isinstance(r, dict) else r for r in results])

    def _result(self, *arguments: Any, **keywords: Any) -> Any:
        """Returns the result of a call with the options; a coroutine is run."""
        result = self._function(*arguments, **keywords, **self._options)
        return asyncio.run(_wait(result)) if inspect.isawaitable(result) else result

    def _accepted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Returns the arguments that the function accepts and that no option sets."""
        return {
            name: value
            for name, value in arguments.items()
            if (self._takes_any or name in self._parameters) and name not in self._options
        }

    def _log(self, name: str, value: float) -> None:
        self._logs[name] = float(value)

    def _values(self, result: Any, *, is_one_sample: bool = False) -> list[float | None]:
        """Converts a list, an array, a tensor, or a dict with ``rewards`` and optional ``extra_logs`` to a list.

        Args:
            result: The result of the function.
            is_one_sample: Whether a single number stands for a list with one sample.
        """
        if isinstance(result, dict):
            for name, value in (result.get("extra_logs") or {}).items():
                self._log(name, float(np.mean(_plain(value))))
            result = result.get("rewards", result.get("scores"))
        plain = _plain(result)
        if is_one_sample and isinstance(plain, int | float):
            return [plain]
        if not isinstance(plain, list):
            raise TypeError(f"returned {type(result).__name__}; it must return a list with one number per sample")
        return cast("list[float | None]", plain)


def _plain(values: Any) -> Any:
    """Returns arrays and tensors as lists."""
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
        "num_tokens": [i.num_tokens for i in inputs],
        "is_full_length": [i.is_full_length for i in inputs],
    }


def _messages_of(item: RewardInput) -> list[dict[str, Any]]:
    """Returns the prompt as chat messages."""
    return [dict(message) for message in item.messages] or [{"role": "user", "content": item.prompt}]


def _reply(item: RewardInput) -> list[dict[str, Any]]:
    """Returns the completion as chat messages."""
    return [{"role": "assistant", "content": item.completion}]


def _verl_sample(item: RewardInput) -> dict[str, Any]:
    extra = item.metadata.get("extra_info")
    return {
        "data_source": item.metadata.get("data_source", ""),
        "solution_str": item.completion,
        "ground_truth": item.label,
        "extra_info": {**item.metadata, **(extra if isinstance(extra, Mapping) else {})},
        "solution_image": None if item.image is None else np.asarray(item.image).transpose(2, 0, 1),
    }


def _names_constant(function: Callable[..., Any], text: str) -> bool:
    """Whether a text is a constant in the code of a function, or of a function of the same file that it uses."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    seen: set[types.CodeType] = set()
    waiting = [getattr(function, "__code__", None)]
    known = getattr(function, "__globals__", {})
    while waiting:
        code = waiting.pop()
        if code is None or code in seen:
            continue
        seen.add(code)
        if text in code.co_consts:
            return True
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        helpers = [known.get(name) for name in code.co_names]
        waiting += [h.__code__ for h in helpers if inspect.isfunction(h) and h.__globals__ is known]
    return False


async def _wait(result: Awaitable[Any]) -> Any:
    return await result


async def _all(results: Sequence[Any]) -> list[Any]:
    """Returns the results in order; coroutines run concurrently."""
    waiting = iter(await asyncio.gather(*(r for r in results if inspect.isawaitable(r))))
    return [next(waiting) if inspect.isawaitable(r) else r for r in results]
