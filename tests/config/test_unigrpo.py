"""Tests that invalid configs are errors that say what to write instead."""

import dataclasses
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from unigrpo.cli.prepare import held_out_file, prepare_parser
from unigrpo.config import (
    ActorConfig,
    CheckpointConfig,
    DataConfig,
    DeepSpeedConfig,
    ImageSamplingConfig,
    KLConfig,
    MaskRatioConfig,
    PromptFileConfig,
    RefConfig,
    RewardConfig,
    RewardTermConfig,
    RolloutConfig,
    RunConfig,
    TextSamplingConfig,
    TrainConfig,
    prompt_files,
)
from unigrpo.config.denoising import ValidationConfig
from unigrpo.config.parsing import config_from_args, parse, run_parser


def wrong_types(make: Callable[[], object], message: str) -> Any:
    """Returns a case that also contradicts the type hints, which runs with checks of types leave out."""
    return pytest.param(make, message, marks=pytest.mark.wrong_types)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RolloutConfig(n_samples_per_prompt=1), "group advantages would all be 0; use at least 2"),
        (
            lambda: RolloutConfig(text=TextSamplingConfig(temperature=0.0)),
            "samples of a prompt would be equal; use 1.0",
        ),
        (lambda: TextSamplingConfig(max_new_tokens=10, block_length=4), "10 is not a multiple of block_length 4"),
        (lambda: TextSamplingConfig(max_new_tokens=4, block_length=8), "block_length is 8, longer than"),
        (
            lambda: TextSamplingConfig(max_new_tokens=12, block_length=4, num_denoising_steps=7),
            "num_denoising_steps 7 is not a multiple of the 3 blocks",
        ),
        (
            lambda: RolloutConfig(
                text=TextSamplingConfig(max_new_tokens=12, block_length=4, num_denoising_steps=10**30 // 3 * 3)
            ),
            r"rollout.text.num_denoising_steps is 9+, but a response has only 12 tokens .*use at most 12",
        ),
        (
            lambda: RolloutConfig(image=ImageSamplingConfig(num_image_tokens=16, num_denoising_steps=17)),
            "rollout.image.num_denoising_steps is 17, but an image has only 16 codes",
        ),
        (
            lambda: ValidationConfig(text=TextSamplingConfig(max_new_tokens=4, block_length=4, num_denoising_steps=5)),
            "validation.text.num_denoising_steps is 5, but a response has only 4 tokens",
        ),
        (lambda: TrainConfig(seed=2**32), "train.seed is 4294967296; it must lie in"),
        (lambda: TrainConfig(seed=-1), "train.seed is -1"),
        (lambda: TextSamplingConfig(top_p=0.0), r"top_p is 0.0; it must lie in \(0, 1\]"),
        wrong_types(
            lambda: TextSamplingConfig(remasking="high"),  # type: ignore[arg-type]
            "remasking: no 'high'; choose one of",
        ),
        (lambda: MaskRatioConfig(minimum=0.8, maximum=0.2), "0 <= minimum <= maximum <= 1"),
        wrong_types(
            lambda: MaskRatioConfig(schedule="strides"),  # type: ignore[arg-type]
            "choose one of .*'stride'",
        ),
        (lambda: KLConfig(init_coef=-1.0), "algo.kl.init_coef is -1.0"),
        (lambda: ActorConfig(eps_clip_low_high=(1.5, 0.2)), "low is 1.5"),
        (lambda: ActorConfig(num_gpus_per_node=0), "actor.num_gpus_per_node is 0"),
        wrong_types(
            lambda: DeepSpeedConfig(zero_stage=4),  # type: ignore[arg-type]
            r"ds.zero_stage is 4; choose one of \[0, 1, 2, 3\]",
        ),
        (
            lambda: DeepSpeedConfig(zero_stage=1),
            r"ds.grad_accum_dtype is fp32, which DeepSpeed.s ds.zero_stage 1 cannot do",
        ),
        (lambda: DeepSpeedConfig(adam_offload=True), r"ds.zero_stage 2 cannot do with ds.adam_offload; use"),
        (lambda: DeepSpeedConfig(param_dtype="fp32", grad_accum_dtype="bf16"), "ds.grad_accum_dtype is bf16, but"),
        (lambda: RewardConfig(terms=()), "reward.terms is empty"),
        (lambda: RewardConfig(terms=(RewardTermConfig(name="a"), RewardTermConfig(name="a"))), "names a reward twice"),
        (lambda: TrainConfig(num_inner_updates=0), "train.num_inner_updates is 0"),
        (lambda: CheckpointConfig(max_num=0), "ckpt.max_num is 0"),
        (lambda: DataConfig(prompt_dataset=""), "data.prompt_dataset is empty"),
        (lambda: DataConfig(instructions={"vqa": "Look."}), "data.instructions: no 'vqa'; choose one of"),
        (lambda: DataConfig(prompt_templates={"t2i": "chat"}), "data.prompt_templates: no 't2i'; choose one of"),
        wrong_types(
            lambda: DataConfig(prompt_templates={"mmu": "none"}),  # type: ignore[dict-item]
            "data.prompt_templates.mmu: no 'none'",
        ),
        (
            lambda: RewardTermConfig(name="a", on_policy_gpus=True, num_gpus=0.5),
            "on_policy_gpus has one process on each GPU of the policy; leave out num_workers and num_gpus",
        ),
        (
            lambda: RewardConfig(terms=tuple(RewardTermConfig(name=n, on_policy_gpus=True) for n in "abcdef")),
            "6 rewards have on_policy_gpus; at most 5",
        ),
        (lambda: CheckpointConfig(export_steps=-1), "ckpt.export_steps is -1"),
        wrong_types(
            lambda: RewardTermConfig(name="a", only="gold"),  # type: ignore[arg-type]
            "reward.terms: a: only: no 'gold'",
        ),
        (
            lambda: RunConfig(actor=ActorConfig(num_gpus_per_node=3)),
            "128 samples of a step .* over 3 policy ranks; make",
        ),
        (
            lambda: RunConfig(ref=RefConfig(offload=True), ds=DeepSpeedConfig(zero_stage=3)),
            "ref.offload is not for ds.zero_stage 3",
        ),
    ],
)
def test_wrong_values_are_errors_on_construction_that_say_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def sections(cls):
    """Yields a dataclass and all dataclasses in its fields."""
    yield cls
    for field in dataclasses.fields(cls):
        default = field.default_factory() if callable(field.default_factory) else None
        if dataclasses.is_dataclass(default):
            yield from sections(type(default))


def test_nothing_changes_a_config_after_construction():
    for section in sections(RunConfig):
        instance = section()
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(instance, dataclasses.fields(section)[0].name, None)


@pytest.mark.parametrize("flags", [(), ("--actor.num_nodes", "8", "--rollout.batch_size", "384")])
def test_the_shipped_8b_config_has_the_rewards_of_the_paper(flags):
    file = Path(__file__).parents[2] / "launch" / "configs" / "mmada_8b" / "unigrpo.yaml"
    config = config_from_args(parse(run_parser("x", "x", RunConfig), ["--config", str(file), *flags]), RunConfig)
    weights = {(term.name, task): term.weight for term in config.reward.terms for task in term.tasks}
    assert weights == {
        ("math_answer", "text"): 2.0, ("math_answer", "mmu"): 2.0, ("cot_format", "text"): 0.5,
        ("cot_format", "mmu"): 0.5, ("clip_score", "t2i"): 0.1, ("image_reward", "t2i"): 0.1,
        ("clip_score", "mmu"): 0.1,
    }  # fmt: skip
    by_gold = {term.name: term.only for term in config.reward.terms}
    assert (by_gold["math_answer"], by_gold["cot_format"], by_gold["clip_score"]) == ("with_gold",) * 2 + (
        "without_gold",
    )


def test_unigrpo_uses_the_instructions_and_the_template_of_stage_2():
    folder = Path(__file__).parents[2] / "launch" / "configs" / "mmada_8b"
    data = config_from_args(
        parse(run_parser("x", "x", RunConfig), ["--config", str(folder / "unigrpo.yaml")]), RunConfig
    ).data
    stages = [yaml.safe_load((folder / f"stage2_{part}.yaml").read_text()) for part in (1, 2)]
    asked = [
        (source["task"], source["instruction"])
        for stage in stages
        for modality in ("lm_chat", "mmu", "r2i")
        for source in stage.get(modality, {}).get("sources", {}).values()
        if "instruction" in source
    ]
    assert sorted({task for task, _ in asked}) == ["lm_chat", "mmu", "r2i"]
    names = {"lm_chat": "text", "mmu": "mmu", "r2i": "r2i"}
    assert all(data.instruction_of(names[task]) == text for task, text in asked)
    assert data.instruction_of("text").endswith("i.e. <think> reasoning process here </think> answer here\n")
    assert data.instruction_of("r2i").endswith("i.e. <think> detailed description here </think> image here\n")
    assert {data.template_of("mmu"), *(stage["layout"]["template"] for stage in stages)} == {"chat_one_newline"}


@pytest.mark.parametrize("name", ["unigrpo", "unigrpo_gsm8k", "unigrpo_lora"])
def test_the_header_of_an_8b_config_prepares_all_its_data_files(name):
    text = (Path(__file__).parents[2] / "launch" / "configs" / "mmada_8b" / f"{name}.yaml").read_text()
    values = yaml.safe_load(text)
    named = {
        file.path
        for files in (values["data"]["prompt_dataset"], values["eval"]["dataset"])
        for file in prompt_files(files if isinstance(files, str) else tuple(PromptFileConfig(**one) for one in files))
    }
    written: set[str] = set()
    for line in re.findall(r"^#   unigrpo (prepare .*)$", text, re.MULTILINE):
        given = prepare_parser().parse_args(shlex.split(line.partition("  #")[0])[1:])
        written |= {str(given.output)} | ({str(held_out_file(given.output))} if given.held_out else set())
    assert written == named
    weights = [one.get("weight") for one in values["data"]["prompt_dataset"]] if name == "unigrpo" else [1]
    assert all(weights)
