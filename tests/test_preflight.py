"""What is checked before anything starts: prompts, golds, lengths, estimator, rewards, model, checkpoint."""

import dataclasses
import json

import pytest

from unigrpo.checkpoint import CheckpointStore
from unigrpo.config import (
    ActorConfig,
    AlgoConfig,
    DataConfig,
    LikelihoodConfig,
    RewardConfig,
    RewardTermConfig,
    RunConfig,
)
from unigrpo.preflight import check_checkpoint, check_inputs


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
    # begin, header + "user" + header + newline, 4 characters, end of turn, header + "assistant" + header + newline
    assert inputs.longest_prompt == 1 + 1 + 4 + 2 + 4 + 1 + 1 + 9 + 2


def changed(run, **sections):
    return dataclasses.replace(run, **sections)


def test_a_prompt_beyond_the_limit_is_named(run):
    data = dataclasses.replace(run.data, max_prompt_tokens=24)
    with pytest.raises(ValueError, match=r"sums.jsonl:1: the prompt has 25 tokens, more than .* 24"):
        check_inputs(changed(run, data=data))


def test_an_unknown_estimator_or_reward_lists_the_names(run):
    algo = AlgoConfig(likelihood=LikelihoodConfig(name="couple"))
    with pytest.raises(ValueError, match=r"no 'couple'; choose one of \['all_masked', 'coupled', 'masked_tokens'"):
        check_inputs(changed(run, algo=algo))
    reward = RewardConfig(terms=(RewardTermConfig(name="maths"),))
    with pytest.raises(ValueError, match=r"no 'maths'; choose one of \[.*'cot_format'.*'math_answer'"):
        check_inputs(changed(run, reward=reward))


def test_a_gold_that_cannot_be_graded_is_named_with_its_line(run, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"prompt": "1+1", "label": "2"}\n{"prompt": "2+2"}\n')
    with pytest.raises(ValueError, match=r"bad.jsonl:2: reward 'math_answer' cannot use it"):
        check_inputs(changed(run, data=DataConfig(prompt_dataset=str(file))))


def test_a_model_folder_that_is_none_is_named(run, tmp_path):
    actor = ActorConfig(model_name_or_path=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"actor.model_name_or_path '.*absent'"):
        check_inputs(changed(run, actor=actor))


def test_images_need_a_checkpoint_with_image_codes(run, tmp_path):
    file = tmp_path / "draw.jsonl"
    file.write_text('{"prompt": "a dog", "task": "t2i"}\n')
    with pytest.raises(ValueError, match=r"a text-only checkpoint, but there are images"):
        check_inputs(changed(run, data=DataConfig(prompt_dataset=str(file))))


def test_a_checkpoint_of_another_number_of_ranks_is_refused(run, tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", max_num=1)
    store.save(1, {"num_policy_ranks": 2}, lambda folder: None)
    check_checkpoint(run, store)  # not resuming: nobody reads it
    resuming = changed(run, ckpt=dataclasses.replace(run.ckpt, load_enable=True))
    with pytest.raises(ValueError, match="sharded over 2 policy ranks, the run has 1"):
        check_checkpoint(resuming, store)
