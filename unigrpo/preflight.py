"""Everything about a run that can be wrong before it starts: prompts, lengths, golds, estimator, model folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from unigrpo.algorithm.likelihood.base import load_estimator
from unigrpo.checkpoint import CheckpointStore
from unigrpo.config import RunConfig
from unigrpo.data.chat import chat_variant
from unigrpo.data.prompt_files import load_prompts
from unigrpo.data.prompting import encode_prompt
from unigrpo.models.checkpoint_io import load_config
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt
from unigrpo.stage_config import StageConfig
from unigrpo.workers.reward import reward_workers

logger = logging.getLogger(__name__)

MAX_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The checked inputs of a run."""

    prompts: list[Prompt]
    eval_prompts: list[Prompt]
    longest_prompt: int
    """Tokens of the longest prompt, training and held-out together."""


def check_inputs(config: RunConfig) -> Inputs:
    """Loads and checks all inputs of a run.

    Raises:
        ValueError: Something is wrong; the message names the file and line, or the setting.
    """
    data = config.data
    load_estimator(config.algo.likelihood.name, config.algo.likelihood.options)
    tokenizer = load_tokenizer(config.actor.model_name_or_path)
    prompts = load_prompts(
        data.prompt_dataset,
        split=data.prompt_split,
        input_key=data.input_key,
        label_key=data.label_key,
        max_samples=data.max_samples,
    )
    eval_prompts: list[Prompt] = []
    if config.eval.dataset:
        eval_prompts = load_prompts(
            config.eval.dataset,
            split=config.eval.split,
            input_key=data.input_key,
            label_key=data.label_key,
            max_samples=config.eval.max_samples,
        )
    both = prompts + eval_prompts
    _check_tasks(both)
    longest = _check_lengths(both, tokenizer, config)
    _check_rewards(both, config)
    logger.info("%d prompts to train on, %d held out, longest %d tokens", len(prompts), len(eval_prompts), longest)
    if data.prompt_template == "chat":
        logger.info("the tokenizer's chat template is %s", chat_variant(tokenizer) or "a form of its own")
    return Inputs(prompts=prompts, eval_prompts=eval_prompts, longest_prompt=longest)


def check_checkpoint(config: RunConfig | StageConfig, checkpoints: CheckpointStore) -> None:
    """Checks the checkpoint that a run would go on from, if it is to.

    Raises:
        ValueError: None is whole, or it was written by another number of ranks.
    """
    found = checkpoints.latest() if config.ckpt.load_enable else None
    if found is None:
        return
    ranks = found.state["num_policy_ranks"]
    if ranks != config.actor.num_ranks:
        raise ValueError(
            f"{found.folder}: its optimizer states are sharded over {ranks} policy ranks, the run has "
            f"{config.actor.num_ranks}; set actor.num_nodes x actor.num_gpus_per_node to {ranks}, or start a new run "
            "from the exported policy"
        )
    logger.info("going on from %s, %d steps finished", found.folder, found.step)


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        ValueError: There is none.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"actor.model_name_or_path {folder!r}: no tokenizer could be loaded; give a folder or Hub name in the "
            f"published MMaDA or LLaDA layout ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error


def _check_lengths(prompts: list[Prompt], tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> int:
    model_config = load_config(config.actor.model_name_or_path)
    vocabulary = Vocabulary.from_pretrained_parts(model_config, tokenizer)
    limit = config.data.max_prompt_tokens
    longest = 0
    for prompt in prompts:
        length = len(encode_prompt(prompt, tokenizer, vocabulary, config.data))
        longest = max(longest, length)
        if length > limit:
            raise ValueError(
                f"{prompt.id}: the prompt has {length} tokens, more than data.max_prompt_tokens {limit}; shorten it "
                "or raise the limit"
            )
    return longest


def _check_tasks(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        if prompt.task != "text":
            raise ValueError(f"{prompt.id}: task {prompt.task!r} cannot be trained yet; only 'text' can")


def _check_rewards(prompts: list[Prompt], config: RunConfig) -> None:
    workers = reward_workers(config.reward)
    try:
        problems = [problem for worker in workers for problem in worker.check_prompts(prompts)]
    finally:
        for worker in workers:
            worker.close()
    if problems:
        more = f"\n... and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise ValueError("\n".join(problems[:MAX_SHOWN]) + more)
