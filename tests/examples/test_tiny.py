"""Tests the sums of the tiny example, its tokenizers, and the recorded accuracy of its models."""

import json
import random
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from unigrpo.config import RunConfig
from unigrpo.config.denoising import StageConfig
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.sampling_defaults import SamplingDefaults

TINY = Path(__file__).parent.parent.parent / "examples" / "tiny"


@pytest.fixture(scope="module")
def tiny():
    """Returns the modules of examples/tiny, imported as its scripts import each other."""
    sys.path.insert(0, str(TINY))
    try:
        import arithmetic  # noqa: PLC0415
        import character_tokenizer  # noqa: PLC0415
        import make_model  # noqa: PLC0415
    finally:
        sys.path.remove(str(TINY))
    return arithmetic, character_tokenizer, make_model


def test_train_and_held_out_problems_are_disjoint_and_include_all_problems(tiny):
    train, test = tiny[0].split()
    assert not set(train) & set(test)
    assert len(set(train) | set(test)) == len(train) + len(test) == 9**3


def test_the_shipped_prompts_are_what_the_generator_writes(tiny, tmp_path):
    tiny[0].write_prompts(tmp_path)
    for name in ("train.jsonl", "test.jsonl"):
        assert (tmp_path / name).read_text() == (TINY / "prompts" / name).read_text()


def test_a_response_without_mistakes_is_right_and_a_mistake_changes_the_result(tiny):
    arithmetic = tiny[0]
    assert arithmetic.thoughts_and_answer((9, 8, 7)) == "<think>9+8=17 17+7=24</think>24"
    assert arithmetic.thoughts_and_answer((9, 8, 7), (-1, 1)) == "<think>9+8=16 16+7=24</think>24"
    rng = random.Random(0)
    slips = [slip for _ in range(4000) for slip in arithmetic.draw_slips(rng)]
    assert abs(sum(s != 0 for s in slips) / len(slips) - arithmetic.SLIP_RATE) < 0.02


@pytest.mark.parametrize("text", ["<think>3+4=7 7+5=12</think>12", "9+9+9=", "-12*(3+4)\n?"])
def test_the_character_tokenizer_gives_the_text_back(text):
    tokenizer = AutoTokenizer.from_pretrained(TINY / "model")
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_byte_tokenizer_gives_every_text_back(tiny, tmp_path):
    tiny[1].save_byte_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("Natalia sold 48/2 = 24 clips.\n#### 72", "漢字 naïve \t  two  spaces 'it' . ,", "\x00\x7f🙂"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_accuracy_of_the_model_is_the_recorded_one(tiny):
    record = json.loads((TINY / "model" / "training.json").read_text())
    assert (TINY / "model" / "model.safetensors").stat().st_size < 2_000_000
    model = MMadaModelLM.from_pretrained(TINY / "model").eval()
    assert model.num_parameters() == record["num_parameters"]
    measured = tiny[2].measure(model, AutoTokenizer.from_pretrained(TINY / "model"))
    # Another processor may round differently and sample other tokens, so two of the 182 problems may differ.
    assert measured == pytest.approx(record["held_out"], abs=0.011)


@pytest.mark.parametrize(
    ("folder", "kind", "config"),
    [("model", RunConfig, "tiny_text.yaml"), ("mixcot", StageConfig, "tiny/stage2_2.yaml")],
)
def test_the_models_have_the_sampling_settings_of_their_runs(folder, kind, config):
    settings = kind.from_yaml(TINY.parents[1] / "launch" / "configs" / config)
    assert SamplingDefaults.read(TINY / folder) == SamplingDefaults.of_run(settings)
