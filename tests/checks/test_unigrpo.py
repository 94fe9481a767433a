"""Tests the checks before a run starts: prompts, gold answers, lengths, estimator, rewards, model and checkpoint."""

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from unigrpo.checks import unigrpo as checks
from unigrpo.checks.unigrpo import check_inputs
from unigrpo.config import (
    ActorConfig,
    AlgoConfig,
    DataConfig,
    ImageConfig,
    ImageSamplingConfig,
    LikelihoodConfig,
    RewardConfig,
    RewardTermConfig,
    RolloutConfig,
    RunConfig,
)
from unigrpo.records import Prompt


@pytest.fixture
def run(tiny_model_folder, tmp_path) -> RunConfig:
    prompts = tmp_path / "sums.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{i}+1=", "label": str(i + 1)}) + "\n" for i in range(4)))
    return RunConfig(
        actor=ActorConfig(model_name_or_path=str(tiny_model_folder)), data=DataConfig(prompt_dataset=str(prompts))
    )


def test_good_inputs_are_counted(run):
    inputs = check_inputs(run)
    assert (len(inputs.prompts), inputs.eval_prompts) == (4, [])
    # begin-of-text; header, "user", header, newline; 4 characters; end-of-turn; header, "assistant", header, newline
    assert inputs.longest_prompt == 1 + 1 + 4 + 2 + 4 + 1 + 1 + 9 + 2


def changed(run, **sections):
    return dataclasses.replace(run, **sections)


def test_a_prompt_beyond_the_limit_is_named(run):
    data = dataclasses.replace(run.data, max_prompt_tokens=24)
    with pytest.raises(ValueError, match=r"sums.jsonl:1: the prompt has 25 tokens, more than .* 24"):
        check_inputs(changed(run, data=data))


def test_an_unknown_estimator_or_reward_lists_the_names(run):
    algo = AlgoConfig(likelihood=LikelihoodConfig(name="couple"))
    with pytest.raises(ValueError, match=r"no 'couple'; choose one of \['all_masked', .*'coupled', .*'masked_tokens'"):
        check_inputs(changed(run, algo=algo))
    reward = RewardConfig(terms=(RewardTermConfig(name="maths"),))
    with pytest.raises(ValueError, match=r"no 'maths'; choose one of \[.*'cot_format'.*'math_answer'"):
        check_inputs(changed(run, reward=reward))


def test_a_gold_that_cannot_be_graded_is_named_with_its_line(run, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"prompt": "1+1", "label": "2"}\n{"prompt": "2+2"}\n')
    with pytest.raises(ValueError, match=r"bad.jsonl:2: reward 'math_answer' cannot use it"):
        check_inputs(changed(run, data=DataConfig(prompt_dataset=str(file))))


def test_few_prompts_that_cannot_be_used_are_left_out_of_training_and_evaluation(run, tmp_path, caplog):
    rows = [{"prompt": f"{i}+1=", "label": str(i + 1)} for i in range(200)]
    rows[3] = {"prompt": "3+1=", "label": ""}
    rows[7] = {"prompt": "7+<|mdm_mask|>=", "label": "8"}
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = check_inputs(changed(run, data=DataConfig(prompt_dataset=str(file))))
    assert len(inputs.prompts) == len(inputs.prompt_tokens["text"]) == 198
    assert not {"sums.jsonl:4", "sums.jsonl:8"} & {prompt.id for prompt in inputs.prompts}
    assert "sums.jsonl:4: reward 'math_answer' cannot use it" in caplog.text
    assert "sums.jsonl:8: the text holds the special tokens ['<|mdm_mask|>']" in caplog.text
    strict = changed(run, data=DataConfig(prompt_dataset=str(file), max_bad_fraction=0.005))
    with pytest.raises(ValueError, match=r"sums.jsonl:4: (.|\n)*2 of 200 rows .* more than .*fraction 0.005"):
        check_inputs(strict)


def test_a_folder_without_a_model_is_named(run, tmp_path):
    actor = ActorConfig(model_name_or_path=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"actor.model_name_or_path '.*absent'"):
        check_inputs(changed(run, actor=actor))


def test_images_need_a_checkpoint_with_image_codes(run, tmp_path):
    file = tmp_path / "draw.jsonl"
    file.write_text('{"prompt": "a dog", "task": "t2i"}\n')
    with pytest.raises(ValueError, match=r"a text-only checkpoint, but there are images"):
        check_inputs(changed(run, data=DataConfig(prompt_dataset=str(file))))


@pytest.fixture
def mixed(run, tiny_unified_folder, tmp_path):
    """Returns a function that makes a run on prompts with images from their rows and values of its sections."""
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "red.png").read_bytes()[:40])

    def make(*rows, reward=("math_answer",), **sections):
        (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return changed(
            run,
            actor=ActorConfig(model_name_or_path=str(tiny_unified_folder)),
            data=DataConfig(prompt_dataset=str(tmp_path / "mixed.jsonl")),
            image=ImageConfig(resolution=16),
            reward=RewardConfig(terms=tuple(RewardTermConfig(name=name) for name in reward)),
            **sections,
        )

    return make


def test_every_prompt_that_cannot_be_trained_on_is_named(mixed):
    look = {"task": "mmu", "prompt": "how many?", "label": "1"}
    check_inputs(mixed({**look, "image": "red.png"}))
    with pytest.raises(
        ValueError, match=r"jsonl:1: .*none.png: no image could be read(.|\n)*jsonl:2: .*torn.png: no image"
    ):
        check_inputs(mixed({**look, "image": "none.png"}, {**look, "image": "torn.png"}))
    long = {"prompt": "1" * 600, "label": "1"}
    with pytest.raises(ValueError, match=r"jsonl:1: the prompt has 6\d\d tokens(.|\n)*jsonl:3: the prompt has 6"):
        check_inputs(mixed(long, {"prompt": "1", "label": "1"}, long))


@pytest.mark.parametrize("reward", ["math_answer", "cot_format"])
def test_a_reward_of_text_does_not_fit_text_to_image(mixed, reward):
    with pytest.raises(ValueError, match=r"jsonl:2: reward .* cannot use it: task 't2i' generates no text"):
        check_inputs(
            mixed({"prompt": "1", "label": "1"}, {"task": "t2i", "prompt": "x", "label": "1"}, reward=(reward,))
        )


def test_a_reward_of_images_does_not_fit_a_text(mixed):
    with pytest.raises(ValueError, match=r"jsonl:1: reward 'jpeg_size' cannot use it: task 'text' generates no image"):
        check_inputs(mixed({"prompt": "1", "label": "1"}, reward=("jpeg_size",)))


def test_a_file_with_a_sampling_weight_and_no_prompt_to_train_on_is_named(mixed, tmp_path):
    run = mixed({"prompt": "1", "label": "1"})
    (tmp_path / "draw.jsonl").write_text('{"task": "t2i", "prompt": "x"}\n')
    both = f"{run.data.prompt_dataset},{tmp_path / 'draw.jsonl'}"
    data = dataclasses.replace(run.data, prompt_dataset=both, prompt_probs=(2.0, 1.0), tasks=("text",))
    with pytest.raises(
        ValueError, match=r"draw.jsonl has a sampling weight .*, but no prompt to train on; see data.tasks"
    ):
        check_inputs(changed(run, data=data))


def test_a_task_that_no_reward_scores_is_named(mixed):
    run = mixed({"prompt": "1", "label": "1"}, {"task": "t2i", "prompt": "x"})
    terms = (RewardTermConfig(name="math_answer", tasks=("text",)), RewardTermConfig(name="jpeg_size", weight=0.0))
    with pytest.raises(ValueError, match=r"jsonl:2: no reward with a weight scores task 't2i'"):
        check_inputs(changed(run, reward=RewardConfig(terms=terms)))


def test_a_prompt_without_a_gold_answer_that_no_reward_scores_is_named(mixed):
    run = mixed({"prompt": "1", "label": "1"}, {"prompt": "x"})
    terms = (RewardTermConfig(name="math_answer", tasks=("text",), only="with_gold"),)
    message = r"jsonl:2: no reward with a weight scores task 'text' without a gold answer; add one"
    with pytest.raises(ValueError, match=message):
        check_inputs(changed(run, reward=RewardConfig(terms=terms)))
    both = (*terms, RewardTermConfig(name="cot_format", only="without_gold"))
    assert len(check_inputs(changed(run, reward=RewardConfig(terms=both))).prompts) == 2


def test_a_number_of_image_tokens_that_contradicts_the_resolution_is_refused(mixed):
    rollout = RolloutConfig(image=ImageSamplingConfig(num_image_tokens=9, num_denoising_steps=9))
    with pytest.raises(ValueError, match=r"num_image_tokens is 9, but image.resolution 16 makes 16"):
        check_inputs(mixed({"task": "t2i", "prompt": "x"}, reward=("jpeg_size",), rollout=rollout))


def test_more_steps_than_an_image_has_codes_are_refused_if_images_are_generated(mixed):
    rollout = RolloutConfig(image=ImageSamplingConfig(num_denoising_steps=17))
    with pytest.raises(ValueError, match=r"rollout.image.num_denoising_steps is 17, but an image has only 16 codes"):
        check_inputs(mixed({"task": "t2i", "prompt": "x"}, reward=("jpeg_size",), rollout=rollout))


def test_the_prompts_of_a_broken_image_are_named(tmp_path):
    good, broken = str(tmp_path / "good.png"), str(tmp_path / "broken.png")
    Image.new("RGB", (4, 4)).save(good)
    Path(broken).write_bytes(b"no image")
    images = [(good,), (broken,), (good, broken), (), (good,)]
    prompts = [Prompt(id=f"a:{i}", text="?", task="mmu", images=names) for i, names in enumerate(images)]
    problems = checks._image_problems(prompts)
    assert {place: (reason, message.split(":")[1]) for place, (reason, message) in problems.items()} == {
        1: ("broken image", "1"),
        2: ("broken image", "2"),
    }
    assert all(broken in message for _, message in problems.values())
