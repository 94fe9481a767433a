"""Checks of rewards before a run starts, in processes with deadlines because rewards are users' code."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rewards.runtime.process import DeadlineMissed, ProcessFailed, RewardProcess
from unigrpo import ConfigError
from unigrpo.config import RewardConfig, RewardTermConfig
from unigrpo.records import Prompt
from unigrpo.training.batching import micro_batches
from unigrpo.workers.reward import applies_to, check_names, prompt_input, reward_spec

PROMPTS_PER_CALL = 256
"""Number of prompts that a reward checks within one deadline."""


def refused_prompts(prompts: Sequence[Prompt], config: RewardConfig) -> dict[int, str]:
    """Imports and constructs every reward, and lets it check the prompts that it scores.

    Returns:
        The index of each prompt that some reward cannot score, for example because its gold answer cannot be graded,
        and a message with file and line.

    Raises:
        ValueError: A reward cannot be built, fails or misses its deadline, or two rewards have the same name.
    """
    with ThreadPoolExecutor(max_workers=len(config.terms)) as threads:
        checked = list(threads.map(partial(_check, prompts=prompts), config.terms))
    check_names([name for name, _ in checked])
    refused: dict[int, str] = {}
    for _, problems in checked:
        refused = problems | refused
    return refused


def _check(term: RewardTermConfig, prompts: Sequence[Prompt]) -> tuple[str, dict[int, str]]:
    """Returns the name of a reward, and a message for the index of each prompt that it cannot score."""
    seconds = min(term.check_timeout_seconds, term.load_timeout_seconds)
    places = [place for place, prompt in enumerate(prompts) if applies_to(term, prompt)]
    refused: dict[int, str] = {}
    try:
        with RewardProcess(reward_spec(term)) as process:
            name = process.build(seconds=seconds).name
            for part in micro_batches(places, PROMPTS_PER_CALL):
                inputs = [prompt_input(prompts[place]) for place in part]
                try:
                    problems = process.check_prompts(inputs, seconds=seconds)
                except ValueError as error:
                    raise ConfigError(f"reward {name!r} cannot check the prompts: {error}") from error
                for place, problem in zip(part, problems, strict=True):
                    if problem:
                        refused[place] = f"{prompts[place].id}: reward {name!r} cannot use it: {problem}"
    except DeadlineMissed as error:
        raise ConfigError(
            f"reward {term.name!r} {error}; if it needs longer, set its check_timeout_seconds in reward.terms"
        ) from error
    except ProcessFailed as error:
        raise ConfigError(f"reward {term.name!r} {error}") from error
    except ConfigError:
        raise
    except ValueError as error:  # rewards/ knows no class of unigrpo
        raise ConfigError(str(error)) from error
    return name, refused
