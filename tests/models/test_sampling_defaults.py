"""Tests the sampling settings in the folder of a policy: writing, reading, flags, and errors about damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unigrpo import CheckpointError
from unigrpo.config import DataConfig, ImageConfig, ImageSamplingConfig, RolloutConfig, RunConfig, TextSamplingConfig
from unigrpo.config.corpora import LayoutConfig, SourceConfig
from unigrpo.config.denoising import ModalityConfig, StageConfig, ValidationConfig
from unigrpo.models.sampling_defaults import FILE, SamplingDefaults

TEXT = TextSamplingConfig(max_new_tokens=12, num_denoising_steps=4, block_length=6, temperature=0.7)
IMAGE = ImageSamplingConfig(num_denoising_steps=3, guidance_scale=2.0)
RUN = RunConfig(
    image=ImageConfig(resolution=64, fit="stretch"),
    data=DataConfig(
        prompt_template="chat_one_newline",
        prompt_templates={"mmu": "chat"},
        instruction="Think. ",
        instructions={"r2i": "Describe. "},
    ),
    rollout=RolloutConfig(text=TEXT, image=IMAGE, max_text_tokens=40),
)


def test_a_policy_samples_as_its_run_did(tmp_path: Path) -> None:
    SamplingDefaults.of_run(RUN).write(tmp_path)
    found = SamplingDefaults.read(tmp_path)
    assert found is not None
    assert found == SamplingDefaults.of_run(RUN)
    assert (found.resolution, found.fit, found.max_text_tokens) == (64, "stretch", 40)
    assert found.text_sampling() == TEXT
    assert found.image_sampling() == IMAGE
    for task in ("text", "mmu", "t2i", "r2i"):
        assert found.prompting().template_of(task) == RUN.data.template_of(task)
        assert found.prompting().instruction_of(task) == RUN.data.instruction_of(task)


def test_a_policy_of_a_stage_samples_as_its_validation_did() -> None:
    stage = StageConfig(
        image=ImageConfig(resolution=32),
        layout=LayoutConfig(template="chat_one_newline"),
        lm=ModalityConfig(batch_size=1, sources={"a": SourceConfig(kind="text", task="lm", path="a.jsonl")}),
        validation=ValidationConfig(text=TEXT, image=IMAGE),
    )
    found = SamplingDefaults.of_run(stage)
    assert (found.resolution, found.prompt_template) == (32, "chat_one_newline")
    assert (found.text_sampling(), found.image_sampling()) == (TEXT, IMAGE)


def test_flags_have_the_names_of_the_commands_and_the_template_of_the_task() -> None:
    flags = SamplingDefaults.of_run(RUN).flags("mmu")
    assert (flags["resolution"], flags["prompt_template"], flags["instruction"]) == (64, "chat", "Think. ")
    assert (flags["text.block_length"], flags["image.guidance_scale"]) == (6, 2.0)
    assert "image.num_image_tokens" not in flags, "it is determined by the resolution"
    assert "text.cache" not in flags, "it changes only the speed"
    flags = SamplingDefaults.of_run(RUN).flags()
    assert flags["prompt_templates"] == {"mmu": "chat"}
    assert (flags["prompt_template"], flags["instruction"]) == ("chat_one_newline", "Think. ")


def test_settings_of_a_later_version_are_left_out(tmp_path: Path) -> None:
    SamplingDefaults.of_run(RUN).write(tmp_path)
    values = json.loads((tmp_path / FILE).read_text())
    values |= {"later": 1, "text": {**values["text"], "later": 2}}
    (tmp_path / FILE).write_text(json.dumps(values))
    found = SamplingDefaults.read(tmp_path)
    assert found is not None
    assert found.text_sampling() == TEXT
    assert not hasattr(found, "later")


def test_a_folder_without_the_file_has_no_settings(tmp_path: Path) -> None:
    assert SamplingDefaults.read(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("{", "found '{', expected an object"),
        ([1], r"found \[1\], expected an object"),
        ({"resolution": "512"}, "resolution is '512', expected an integer"),
        ({"resolution": 0}, "resolution is 0; it must be a number above 0"),
        ({"max_text_tokens": -1}, "max_text_tokens is -1"),
        ({"fit": "squash"}, "fit is 'squash', expected one of 'crop'"),
        ({"prompt_template": "llada"}, "prompt_template is 'llada', expected one of 'chat'"),
        ({"prompt_templates": {"text": 3}}, r"prompt_templates\.text is 3, expected one of"),
        ({"prompt_templates": {"t2i": "chat"}}, r"data\.prompt_templates: no 't2i'"),
        ({"instructions": ["a"]}, r"instructions is \['a'\], expected an object"),
        ({"instruction": None}, "instruction is None, expected a text"),
        ({"text": {"temperature": "1"}}, "temperature is '1', expected a number"),
        ({"text": {"max_new_tokens": -4}}, "longer than max_new_tokens -4"),
        ({"image": {"schedule": "steep"}}, "'steep'"),
        ({"image": 3}, "image is 3, expected an object"),
    ],
)
def test_an_impossible_value_is_named_with_the_file(tmp_path: Path, changes: object, message: str) -> None:
    SamplingDefaults.of_run(RunConfig()).write(tmp_path)
    values = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**values, **changes} if isinstance(changes, dict) else changes))
    with pytest.raises(CheckpointError, match=rf"sampling\.json: .*{message}.*; export the policy again"):
        SamplingDefaults.read(tmp_path)
