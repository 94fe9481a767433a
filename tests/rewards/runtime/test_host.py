"""Tests a reward in the process that calls it: every error of user code becomes a message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rewards.base import RewardInput
from rewards.runtime.host import RewardHost, RewardSpec

PROMPTS = [RewardInput(prompt="p", completion="", label=label) for label in ("1", "", "2")]
CODE = """
from rewards.base import Reward

class Works(Reward):
    name, range, unit = "works", (0.0, 1.0), "x"
    is_costly = True
    closed = 0
    def __call__(self, inputs):
        return [float(item.label or 0) for item in inputs]
    def check_prompt(self, prompt):
        if not prompt.label:
            raise ValueError("it has no gold")
    def close(self):
        type(self).closed += 1
        raise KeyboardInterrupt

class Interrupts(Works):
    def __call__(self, inputs):
        raise KeyboardInterrupt
    def check_prompt(self, prompt):
        raise KeyError("gold")

class CannotLoad(Works):
    def load(self):
        raise OSError("no weights")

class RefusesToLoad(Works):
    def load(self):
        raise ValueError("give the folder of the weights")

class CannotBeBuilt(Works):
    def __init__(self):
        raise KeyboardInterrupt

class RefusesItsOptions(Works):
    def __init__(self, size=0):
        raise ValueError("size is 0; use at least 1")
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user") / "hosted.py"
    path.write_text(CODE)
    return path


def host(file: Path, name: str, *, owns_process: bool = True) -> RewardHost:
    return RewardHost(RewardSpec(name=f"{file}:{name}", options={}), owns_process=owns_process)


def test_a_reward_is_built_checked_called_and_closed(file: Path) -> None:
    works = host(file, "Works")
    info = works.load()
    assert (info.name, info.style, info.is_costly) == ("works", "", True)
    assert works.check_prompts(PROMPTS) == ["", "it has no gold", ""]
    assert works.score(PROMPTS).values == [1.0, 0.0, 2.0]
    works.close()  # its error is ignored
    assert type(works._built).closed == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "CannotBeBuilt",
            r":CannotBeBuilt' could not be built: KeyboardInterrupt \(.*hosted.py:\d+\)",
        ),
        ("RefusesItsOptions", "size is 0; use at least 1"),
        ("CannotLoad", r"'.*:CannotLoad' could not be loaded: OSError: no weights \(.*hosted.py:\d+\)"),
        ("RefusesToLoad", "^give the folder of the weights$"),
    ],
)
def test_the_error_of_a_reward_that_does_not_start_is_one_message(file: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        host(file, name).load()


def test_an_error_in_a_check_differs_from_a_prompt_that_cannot_be_scored(file: Path) -> None:
    interrupts = host(file, "Interrupts")
    interrupts.build()
    with pytest.raises(ValueError, match=r"check_prompt raised KeyError: 'gold' \(.*hosted.py:\d+\)"):
        interrupts.check_prompts(PROMPTS)


def test_an_interrupt_is_an_error_of_the_reward_only_in_a_separate_process(file: Path) -> None:
    interrupts = host(file, "Interrupts")
    interrupts.build()
    found = interrupts.score(PROMPTS)
    assert found.values == [None] * 3
    assert found.reason.startswith("raised KeyboardInterrupt (")
    shared = host(file, "Interrupts", owns_process=False)
    shared.build()
    with pytest.raises(KeyboardInterrupt):
        shared.score(PROMPTS)


def test_a_reward_that_was_never_built_is_an_error_of_the_caller_and_is_closed_without_one() -> None:
    def one(*, completions: Sequence[str]) -> list[float]:
        return [1.0] * len(completions)

    unbuilt = RewardHost(RewardSpec(name="one", options={}), function=one)
    unbuilt.close()
    with pytest.raises(RuntimeError, match="build or load comes first"):
        unbuilt.score(PROMPTS)
    assert unbuilt.build().style == "unigrpo"
    assert unbuilt.score(PROMPTS).values == [1.0] * 3
