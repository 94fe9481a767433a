"""Builds and calls one reward in its own process: a Ray actor, or a process of :mod:`rewards.runtime.process`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.base import Reward, RewardInput
from rewards.functions import FunctionReward
from rewards.loading import load_reward
from rewards.runtime.errors import describe
from rewards.runtime.output import renew_output
from rewards.runtime.scoring import Scores, missing, score


@dataclass(frozen=True, kw_only=True)
class RewardSpec:
    """The settings from which a reward is built, as in ``reward.terms``."""

    name: str
    """A file of rewards/, ``path/to/file.py:function`` or ``package.module:Class``."""
    options: dict[str, Any]
    """Keyword arguments of the reward."""
    style: str = "auto"
    """How a function is called."""


@dataclass(frozen=True, kw_only=True)
class RewardInfo:
    """The properties of a reward after it is built."""

    name: str
    """Name in metrics."""
    style: str
    """How a function is called; empty for a subclass of Reward."""
    is_costly: bool
    """Whether the samples take most of the reward's time, so that they may be cut into calls of any size."""


class RewardHost:
    """Builds, checks and calls one reward.

    User code may do anything, so this class belongs into a process that the caller can end: a call may never return,
    and it may end the process.
    """

    def __init__(
        self, spec: RewardSpec, *, owns_process: bool = True, function: Callable[..., Any] | None = None
    ) -> None:
        """Builds nothing yet.

        Args:
            spec: The reward.
            owns_process: Whether a KeyboardInterrupt can only be the reward's own, because nobody presses Ctrl-C in
                this process.
            function: A function of this process, which is the reward; None loads the one that `spec` names.
        """
        self._spec, self._owns_process, self._function = spec, owns_process, function
        self._reward: Reward | None = None

    def build(self) -> RewardInfo:
        """Imports and constructs the reward.

        Raises:
            ValueError: It cannot be built; the message says why.
        """
        spec = self._spec
        try:
            with no_forked_child():
                self._reward = reward = self._load()
        except ValueError:
            raise
        except BaseException as error:  # KeyboardInterrupt, for example
            raise ValueError(f"reward.terms: {spec.name!r} could not be built: {describe(error)}") from error
        return RewardInfo(name=reward.name, style=reward.style, is_costly=reward.is_costly)

    def load(self) -> RewardInfo:
        """Builds the reward and loads its weights, or reaches its server.

        Raises:
            ValueError: It cannot be built or loaded; the message says why.
        """
        info = self.build()
        try:
            with no_forked_child():
                self._built.load()
        except ValueError:
            raise
        except BaseException as error:  # user code may raise anything
            raise ValueError(f"{self._spec.name!r} could not be loaded: {describe(error)}") from error
        return info

    def check_prompts(self, prompts: Sequence[RewardInput]) -> list[str]:
        """Returns for each prompt, here without a completion, why the reward cannot work with it; empty if it can.

        Raises:
            ValueError: The check itself failed; the message has the line of the user's code.
        """
        return [self._problem(prompt) for prompt in prompts]

    def score(self, inputs: Sequence[RewardInput]) -> Scores:
        """Calls the reward."""
        renew_output()
        try:
            with no_forked_child():
                return score(self._built, inputs)
        except KeyboardInterrupt as error:
            if not self._owns_process:
                raise
            return missing(len(inputs), f"raised {describe(error)}")

    def close(self) -> None:
        """Closes the reward. Errors of its `close` are ignored."""
        with contextlib.suppress(BaseException), no_forked_child():
            if self._reward is not None:
                self._reward.close()

    def _load(self) -> Reward:
        spec = self._spec
        if self._function is None:
            return load_reward(spec.name, spec.options, spec.style)
        return FunctionReward(self._function, spec.name, spec.options, spec.style)

    @property
    def _built(self) -> Reward:
        if self._reward is None:
            raise RuntimeError("the reward is not built; build or load comes first")
        return self._reward

    def _problem(self, prompt: RewardInput) -> str:
        try:
            with no_forked_child():
                self._built.check_prompt(prompt)
        except ValueError as error:
            return str(error)
        except BaseException as error:  # user code may raise anything
            raise ValueError(f"check_prompt raised {describe(error)}") from error
        return ""


@contextlib.contextmanager
def no_forked_child() -> Iterator[None]:
    """Ends a child process that user code forked and that leaves the block, by a return or by an exception.

    Such a child shares the sockets of its parent, so that its answers would mix with those of the parent; under Ray
    they end the node's raylet.
    """
    owner = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != owner:
            os._exit(1)
