"""The input of a reward, and the base class of rewards."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class RewardInput:
    """One finished sample."""

    prompt: str
    """Question or request of the user."""
    completion: str
    """The response as text, without the tokens that end a turn or pad; empty for images."""
    raw_completion: str = ""
    """The response as the model generated it up to the first end-of-text, with the tokens that end a turn."""
    completion_ids: tuple[int, ...] = ()
    """Token ids of the response, up to and including the first end-of-text."""
    prompt_ids: tuple[int, ...] = ()
    """Token ids of the prompt, the chat template included."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """The prompt as chat messages with ``role`` and ``content``; empty if the prompt file has it as a string."""
    label: str | None = None
    """Gold answer."""
    task: str = "text"
    """`text`, `mmu`, `t2i` or `r2i`."""
    num_tokens: int = 0
    """Number of text tokens of the response, up to and including the first end-of-text. Image codes do not count."""
    is_full_length: bool = False
    """Whether the text has no end-of-text, so that it was cut off at its largest length."""
    image: Image.Image | None = None
    """Generated image, RGB."""
    input_images: tuple[Image.Image, ...] = ()
    """Images of the prompt."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Other columns of the prompt's line."""


class Reward:
    """Computes a number for every sample of a batch. The constructor checks the options; :meth:`load` loads
    weights."""

    name: str
    """Name in metrics."""
    range: tuple[float, float]
    """Lowest and highest value."""
    unit: str
    """Unit of the value."""
    style: str = ""
    """Calling convention of a user's function; empty for a subclass of this class."""
    is_costly: bool = False
    """Whether the reward takes long per sample, for example because of a model. Each call of such a reward has as many
    samples as its measured rate allows before the deadline, so the score of a sample must not depend on the other
    samples."""
    hub_options: ClassVar[Mapping[str, Callable[[str], Path]]] = {}
    """Options that may name a model of the Hub, each with a function that downloads the model's files if they are
    missing and returns their path."""

    @classmethod
    def local_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the options with paths in place of names of the Hub, including those that are default values.

        The driver of a run calls this method once, so that not every process of the reward sends requests to the Hub.

        Args:
            options: Keyword arguments of the constructor.

        Raises:
            ValueError: A name is neither on this machine nor on the Hub, or the Hub cannot be reached.
        """
        parameters = inspect.signature(cls).parameters
        names = {option: options.get(option, parameters[option].default) for option in cls.hub_options}
        found = {o: str(cls.hub_options[o](name)) for o, name in names.items() if name and isinstance(name, str)}
        return {**options, **found}

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        """Returns one value for each input. None stands for a missing value, which is never treated as 0."""
        raise NotImplementedError

    def load(self) -> None:
        """Loads weights or connects to a server. It is called once, in the reward's own process, before training."""

    def check_label(self, label: str | None) -> None:
        """Raises ValueError if the gold answer cannot be graded."""

    def check_prompt(self, prompt: RewardInput) -> None:
        """Raises ValueError if a prompt (without its completion) cannot be scored. It is called when data is
        loaded."""
        self.check_label(prompt.label)

    def logs(self) -> dict[str, float]:
        """Returns metrics about the calls since this method was last called."""
        return {}

    def close(self) -> None:
        """Ends the processes and connections that the reward started."""


def gold_columns(item: RewardInput) -> Mapping[str, object]:
    """Returns the gold answer if it is a JSON object, and otherwise the other columns of the sample."""
    try:
        found = json.loads(item.label or "")
    except ValueError:
        found = None
    return cast("Mapping[str, object]", found) if isinstance(found, dict) else item.metadata


def check_text_prompt(prompt: RewardInput) -> None:
    """Raises ValueError if the samples of a prompt have no text."""
    if prompt.task == "t2i":
        raise ValueError("task 't2i' generates no text; this reward scores text, mmu and r2i (set its `tasks`)")
