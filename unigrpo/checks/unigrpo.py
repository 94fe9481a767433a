"""Checks of a UniGRPO run before it starts: prompts, lengths, gold answers, estimator and model folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedTokenizerBase

from unigrpo import ConfigError
from unigrpo.algorithm.advantage.base import load_advantage
from unigrpo.algorithm.group_filter.base import load_group_filter
from unigrpo.algorithm.likelihood.base import load_estimator
from unigrpo.algorithm.objective.base import load_objective
from unigrpo.checks.images import unreadable_images
from unigrpo.checks.rewards import refused_prompts
from unigrpo.config import IMAGE_OUTPUT_TASKS, TASKS, ImageConfig, ImageSamplingConfig, RunConfig, check_image_steps
from unigrpo.config.evaluation import EvaluationProtocol
from unigrpo.data.bad_samples import BadRows, raise_problems
from unigrpo.data.chat import chat_text, chat_variant
from unigrpo.data.prompt_stream import check_weights, prompt_weights
from unigrpo.data.prompting import prompt_lengths
from unigrpo.data.prompts import load_prompts
from unigrpo.models.checkpoint_io import load_config
from unigrpo.models.loading import find_image_tokenizer, load_tokenizer
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt
from unigrpo.workers.reward import applies_to

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The checked inputs of a run."""

    prompts: list[Prompt]
    eval_prompts: list[Prompt]
    prompt_tokens: dict[str, list[int]]
    """Length of every prompt by task, training and held-out together, input images included."""
    num_image_tokens: int
    """Codes of one image; 0 if all prompts are text."""

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max((length for lengths in self.prompt_tokens.values() for length in lengths), default=0)


def check_algorithm(config: RunConfig) -> None:
    """Builds the parts of the algorithm that the config names, to check them.

    Raises:
        ValueError: A name or an option is wrong, or the objective does not fit the rewards.
    """
    for task in TASKS:
        likelihood = config.likelihood(task)
        load_estimator(likelihood.name, likelihood.options)
    load_advantage(config.algo.advantage.file, config.algo.advantage.options)
    objective = load_objective(config.algo.objective.name, config.algo.objective.arguments)
    if config.algo.group_filter.name:
        load_group_filter(config.algo.group_filter.name, config.algo.group_filter.options)
    if config.reward.has_spans and objective.level == "sequence":
        raise ConfigError(
            "reward.terms: a reward has a span, but algo.objective.level sequence takes one ratio of the whole "
            "response and so one advantage; use the level span, view, view_token or token"
        )


def check_inputs(config: RunConfig, *, asks_rewards: bool = True) -> Inputs:
    """Loads and checks all inputs of a run.

    Args:
        config: The run.
        asks_rewards: Whether the rewards are built, in their own processes, and check each prompt.

    Raises:
        ValueError: Something is wrong; the message names the file and line, or the setting.
    """
    data = config.data
    check_algorithm(config)
    tokenizer = load_tokenizer(config.actor.model_name_or_path)
    bad = BadRows(data.max_bad_fraction)
    started = time.monotonic()
    prompts = load_prompts(
        data.prompt_dataset,
        split=data.prompt_split,
        input_key=data.input_key,
        label_key=data.label_key,
        tasks=data.tasks,
        max_samples=data.max_samples,
        bad=bad,
    )
    check_weights(prompts, prompt_weights(data))
    held_out = held_out_prompts(config, bad) if config.eval.dataset else []
    checked = check_prompts(prompts + held_out, config, bad, asks_rewards=asks_rewards)
    inputs = Inputs(
        prompts=[prompt for prompt, valid in zip(prompts, checked.is_valid[: len(prompts)], strict=True) if valid],
        eval_prompts=[p for p, valid in zip(held_out, checked.is_valid[len(prompts) :], strict=True) if valid],
        prompt_tokens=checked.tokens,
        num_image_tokens=checked.num_image_tokens,
    )
    check_weights(inputs.prompts, prompt_weights(data))
    logger.info(
        "%d prompts to train on, %d held out, longest %d tokens; reading and checking them took %.1f s",
        len(inputs.prompts),
        len(inputs.eval_prompts),
        inputs.longest_prompt,
        time.monotonic() - started,
    )
    if any(data.template_of(prompt.task) == "chat" for prompt in inputs.prompts if prompt.task != "t2i"):
        logger.info("the tokenizer's chat template is %s", chat_variant(tokenizer) or "a form of its own")
    return inputs


def held_out_prompts(config: RunConfig, bad: BadRows | None = None) -> list[Prompt]:
    """Returns the prompts of ``eval.dataset`` with the template and instruction of the evaluation's protocol.

    Args:
        config: The run.
        bad: Counts the unusable rows; by default, ``data.max_bad_fraction`` of them are allowed.

    Raises:
        ValueError: The prompts cannot be read, or too many rows are unusable.
    """
    prompts = load_prompts(
        config.eval.dataset,
        split=config.eval.split,
        input_key=config.data.input_key,
        label_key=config.data.label_key,
        tasks=config.data.tasks,
        max_samples=config.eval.max_samples,
        bad=bad or BadRows(config.data.max_bad_fraction),
    )
    return [asked_by(config.protocol, prompt) for prompt in prompts]


def asked_by(protocol: EvaluationProtocol, prompt: Prompt) -> Prompt:
    """Returns a prompt with the template, the instruction and the start of the answer of a protocol.

    An instruction of the prompt file is kept.
    """
    if prompt.task == "t2i":
        return prompt
    instruction = prompt.instruction
    if instruction is None and protocol.instructions is not None:
        instruction = protocol.instructions.get(prompt.task, "")
    return replace(
        prompt, template=protocol.prompt_template, instruction=instruction, response_start=protocol.response_start
    )


@dataclass(frozen=True, kw_only=True)
class CheckedPrompts:
    """The results of the checks of prompts."""

    is_valid: list[bool]
    """Whether each prompt is usable. Unusable ones were counted as bad rows of their file."""
    tokens: dict[str, list[int]]
    """Length of every usable prompt by task, input images included."""
    num_image_tokens: int
    """Codes of one image; 0 if all prompts are text."""


def check_prompts(
    prompts: list[Prompt], config: RunConfig, bad: BadRows, *, needs_weight: bool = True, asks_rewards: bool = True
) -> CheckedPrompts:
    """Checks tasks, images, lengths, special tokens and gold answers.

    Args:
        prompts: Prompts of any tasks.
        config: The run.
        bad: Counts the prompts that cannot be used.
        needs_weight: Whether some reward with a weight other than 0 must score each task, as training needs; otherwise
            any reward is enough.
        asks_rewards: Whether the rewards check each prompt.

    Raises:
        ValueError: Something is wrong with the run, or with too many prompts; the message names the file and line, or
            the setting.
    """
    _check_tasks(prompts, config, needs_weight)
    problems = _image_problems(prompts)
    lengths, num_codes = _lengths(prompts, load_tokenizer(config.actor.model_name_or_path), config, problems)
    if asks_rewards:
        _add_reward_problems(prompts, config, problems)
    for place, (reason, message) in sorted(problems.items()):
        bad.add(prompts[place].dataset, reason, message)
    bad.check()
    tokens: dict[str, list[int]] = {}
    for place, length in lengths.items():
        if place not in problems:
            tokens.setdefault(prompts[place].task, []).append(length)
    _warn_of_long_rows(tokens, config, num_codes)
    return CheckedPrompts(
        is_valid=[place not in problems for place in range(len(prompts))], tokens=tokens, num_image_tokens=num_codes
    )


def check_image_tokenizer(image: ImageConfig, model: str, vocabulary: Vocabulary) -> int:
    """Checks that model, image tokenizer and resolution belong together. Returns the number of codes of an image.

    Raises:
        ValueError: They do not belong together.
    """
    if not vocabulary.codebook_size:
        raise ConfigError(
            f"{model}: a text-only checkpoint, but there are images; add image codes with `unigrpo add-image-tokens`"
        )
    tokenizer = find_image_tokenizer(image.tokenizer, model)
    if tokenizer is None:
        raise ConfigError("there are images, but image.tokenizer is empty; name an image tokenizer")
    if tokenizer.codebook_size != vocabulary.codebook_size:
        raise ConfigError(
            f"the image tokenizer has {tokenizer.codebook_size} codes, the model {vocabulary.codebook_size}; use the "
            "one that the model was trained with (image.tokenizer)"
        )
    if image.resolution % tokenizer.downscale:
        raise ConfigError(
            f"image.resolution {image.resolution} is no multiple of {tokenizer.downscale}, the square of pixels "
            "of one code"
        )
    return (image.resolution // tokenizer.downscale) ** 2


def check_image_tokens(
    section: str, image: ImageSamplingConfig, resolution: int, num_codes: int, prompts: Sequence[Prompt]
) -> None:
    """Raises ValueError if the sampling settings of a section do not fit the number of codes of the images."""
    if num_codes and image.num_image_tokens not in (num_codes, ImageSamplingConfig().num_image_tokens):
        raise ConfigError(
            f"{section}.image.num_image_tokens is {image.num_image_tokens}, but image.resolution {resolution} "
            f"makes {num_codes}; leave it out"
        )
    if any(prompt.task in IMAGE_OUTPUT_TASKS for prompt in prompts):
        check_image_steps(f"{section}.image.", image, num_codes)


Problems = dict[int, tuple[str, str]]
"""Reason and message for each unusable prompt, by its index."""


def _lengths(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerBase, config: RunConfig, problems: Problems
) -> tuple[dict[int, int], int]:
    """Length of every prompt by its place, its image included, and that of an image. Adds to the problems."""
    model = config.actor.model_name_or_path
    model_config = load_config(model)
    vocabulary = Vocabulary.from_pretrained_parts(model_config, tokenizer)
    has_images = any(prompt.task != "text" for prompt in prompts)
    num_codes = check_image_tokenizer(config.image, model, vocabulary) if has_images else 0
    check_image_tokens("rollout", config.rollout.image, config.image.resolution, num_codes, prompts)
    if config.eval.dataset:
        check_image_tokens("eval", config.protocol.image, config.image.resolution, num_codes, prompts)
    codes = torch.zeros(num_codes, dtype=torch.long)
    room = config.rollout.max_text_tokens or model_config.max_text_tokens
    lengths: dict[int, int] = {}
    templates = {p.template or config.data.template_of(p.task) for p in prompts if p.task != "t2i"}
    for template in templates - {"plain"}:
        chat_text("a", tokenizer, template)  # a template that fails on everything is no bad row
    found = prompt_lengths(prompts, tokenizer, vocabulary, config.data, codes)
    for place, (prompt, length) in enumerate(zip(prompts, found, strict=True)):
        try:
            if isinstance(length, ValueError):
                raise length
            _check_length(prompt, length, num_codes, config, room)
            lengths[place] = length
        except ValueError as error:
            problems.setdefault(place, ("unfit prompt", str(error)))
    return lengths, num_codes


def _warn_of_long_rows(tokens: dict[str, list[int]], config: RunConfig, num_codes: int) -> None:
    model = config.actor.model_name_or_path
    made_for = load_config(model).max_sequence_length
    longest = max(
        (max(lengths) + config.response_tokens(task, num_codes) for task, lengths in tokens.items()), default=0
    )
    if longest > made_for:
        logger.warning(
            "rows have up to %d tokens, more than the %d (max_sequence_length) that %s was made for",
            longest, made_for, model,
        )  # fmt: skip


def _check_length(prompt: Prompt, length: int, num_codes: int, config: RunConfig, room: int | None) -> None:
    limit = config.data.max_prompt_tokens
    num_text = length - (num_codes if prompt.task == "mmu" else 0)
    if num_text > limit:
        raise ConfigError(
            f"{prompt.id}: the prompt has {num_text} tokens, more than data.max_prompt_tokens {limit}; shorten it or "
            "raise the limit"
        )
    with_thoughts = length + config.rollout.text.max_new_tokens
    if prompt.task == "r2i" and room and with_thoughts > room:
        raise ConfigError(
            f"{prompt.id}: request and thoughts need {with_thoughts} tokens, more than the {room} of training "
            "(rollout.max_text_tokens, or max_text_tokens of the policy's config.json); shorten the request or lower "
            "rollout.text.max_new_tokens"
        )


def _check_tasks(prompts: list[Prompt], config: RunConfig, needs_weight: bool) -> None:
    """Checks that some reward scores every task, both with a gold answer and without one."""
    problems: list[str] = []
    first: dict[tuple[str, bool], Prompt] = {}
    for prompt in prompts:
        first.setdefault((prompt.task, prompt.label is None), prompt)
    for (task, _), prompt in first.items():
        paying = [term for term in config.reward.terms if applies_to(term, prompt)]
        if not any(term.weight or not needs_weight for term in paying):
            kind = "reward with a weight" if needs_weight else "reward"
            gold = (
                f" {'without' if prompt.label is None else 'with'} a gold answer"
                if config.reward.looks_at_golds
                else ""
            )
            problems.append(
                f"{prompt.id}: no {kind} scores task {task!r}{gold}; add one to reward.terms, or leave the task out "
                "by data.tasks"
            )
    raise_problems(problems)


def _image_problems(prompts: list[Prompt]) -> Problems:
    """Returns the prompts whose images cannot be read. Each image is checked once."""
    found = unreadable_images(list(dict.fromkeys(image for prompt in prompts for image in prompt.images)))
    return {
        place: ("broken image", f"{prompt.id}: {found[image]}")
        for place, prompt in enumerate(prompts)
        for image in reversed(prompt.images)  # the first broken one is named
        if image in found
    }


def _add_reward_problems(prompts: list[Prompt], config: RunConfig, problems: Problems) -> None:
    """Lets every reward check the prompts that it scores, including those without a usable gold answer."""
    for place, message in refused_prompts(prompts, config.reward).items():
        problems.setdefault(place, ("gold or prompt that a reward refuses", message))
