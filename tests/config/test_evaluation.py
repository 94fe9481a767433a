"""Tests that the protocols of evaluation are the published ones and alone determine how a model is measured."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
import torch
from transformers import AutoTokenizer

from unigrpo.checks.unigrpo import asked_by
from unigrpo.config import (
    EvalConfig,
    ImageSamplingConfig,
    RewardConfig,
    RewardTermConfig,
    RolloutConfig,
    RunConfig,
    TextSamplingConfig,
)
from unigrpo.config.evaluation import PROTOCOLS, Preset
from unigrpo.data.prompting import encode_prompt
from unigrpo.evaluation.held_out import ways_of_sampling
from unigrpo.models.mmada import MMadaConfig
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt


def test_every_preset_has_a_protocol():
    assert get_args(Preset) == ("training", *PROTOCOLS)


@pytest.mark.parametrize(
    ("name", "tokens", "steps", "block"),
    [("mmada_paper", 1024, 512, 64), ("llada", 256, 256, 8), ("d1", 256, 128, 32)],
)
def test_a_preset_determines_lengths_and_steps_whatever_the_rollouts_are(name, tokens, steps, block):
    rollout = RolloutConfig(text=TextSamplingConfig(max_new_tokens=64, num_denoising_steps=2, block_length=32))
    config = RunConfig(rollout=rollout, eval=EvalConfig(dataset="a", preset=name, n_samples_per_prompt=2))
    greedy, sampled = ways_of_sampling(config)
    for way in (greedy, sampled):
        assert (way.text.max_new_tokens, way.text.num_denoising_steps, way.text.block_length) == (tokens, steps, block)
    assert (greedy.num_samples, greedy.text.temperature, sampled.num_samples) == (1, 0.0, 2)
    assert config.response_tokens("text", 0) == tokens
    if name == "mmada_paper":
        assert (greedy.image.num_denoising_steps, greedy.image.guidance_scale) == (50, 3.5)
        assert greedy.image == sampled.image and greedy.image.temperature == 1.0, "the paper samples images"


def test_without_a_preset_the_evaluation_samples_as_in_training_or_by_its_own_settings():
    rollout = RolloutConfig(text=TextSamplingConfig(max_new_tokens=64, num_denoising_steps=2, block_length=32))
    (way, _) = ways_of_sampling(RunConfig(rollout=rollout))
    assert way.text == dataclasses.replace(rollout.text, temperature=0.0)
    own = TextSamplingConfig(max_new_tokens=16, num_denoising_steps=4, block_length=8)
    (way, sampled) = ways_of_sampling(RunConfig(rollout=rollout, eval=EvalConfig(dataset="a", text=own)))
    assert (way.image.temperature, way.image.remasking_temperature) == (0.0, 0.0)
    assert sampled.text == own and way.image.num_denoising_steps == rollout.image.num_denoising_steps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: EvalConfig(preset="paper"),  # type: ignore[arg-type]
            "eval.preset: no 'paper'; choose one of",
            marks=pytest.mark.wrong_types,
        ),
        (
            lambda: EvalConfig(preset="d1", image=ImageSamplingConfig()),
            "eval.image is set, but eval.preset d1 sets it",
        ),
        (
            lambda: RunConfig(
                eval=EvalConfig(preset="d1"),
                reward=RewardConfig(terms=(RewardTermConfig(name="math_answer", options={"kind": "gsm8k"}),)),
            ),
            "math_answer has kind 'gsm8k', but eval.preset d1 grades by `auto`",
        ),
    ],
)
def test_what_contradicts_a_preset_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def shown(tiny_model_folder, prompt):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    vocabulary = Vocabulary.from_pretrained_parts(MMadaConfig.from_pretrained(tiny_model_folder), tokenizer)
    codes = torch.zeros(0, dtype=torch.long) if prompt.task == "mmu" else None
    ids = encode_prompt(prompt, tokenizer, vocabulary, RunConfig().data, codes)
    return "".join(tokenizer.convert_ids_to_tokens(ids.tolist()))


def test_a_preset_has_its_own_instruction_template_and_start_of_the_response(tiny_model_folder):
    question = Prompt(id="a:1", text="2+3")
    d1 = shown(tiny_model_folder, asked_by(PROTOCOLS["d1"], question))
    assert d1.startswith("<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nYou are a math expert.")
    assert d1.endswith("</answer>\n\n2+3<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n<reasoning>")
    llada = shown(tiny_model_folder, asked_by(PROTOCOLS["llada"], question))
    assert "\n\nQuestion: 2+3\nLet's think step by step\nAnswer:<|eot_id|>" in llada
    seen = shown(tiny_model_folder, asked_by(PROTOCOLS["mmada_paper"], dataclasses.replace(question, task="mmu")))
    assert "user<|end_header_id|>\nYou should first think" in seen and "answer here\n2+3<|eot_id|>" in seen
    own = dataclasses.replace(question, task="mmu", instruction="")
    assert "think" not in shown(tiny_model_folder, asked_by(PROTOCOLS["mmada_paper"], own))
    drawn = dataclasses.replace(question, task="t2i")
    assert asked_by(PROTOCOLS["mmada_paper"], drawn) == drawn
