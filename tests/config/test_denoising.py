"""Tests that the configs of the stages are valid and have the published values of MMaDA."""

from pathlib import Path

import pytest

from unigrpo.config.denoising import StageConfig
from unigrpo.config.parsing import config_from_args, parse, run_parser

FOLDER = Path(__file__).parents[2] / "launch" / "configs" / "mmada_8b"


def stage(name: str) -> StageConfig:
    parser = run_parser("x", "x", StageConfig)
    return config_from_args(parse(parser, ["--config", str(FOLDER / f"{name}.yaml")]), StageConfig)


@pytest.mark.parametrize(
    ("name", "lr", "coefs", "resolution", "room"),
    [
        ("stage1_1", 1e-4, {"t2i": 1.0, "lm": 0.1, "mmu": 1.0}, 256, 128),
        ("stage1_2", 5e-5, {"t2i": 1.0, "lm": 0.1, "mmu": 0.5}, 256, 256),
        ("stage1_3", 5e-5, {"t2i": 1.0, "lm_chat": 0.4, "mmu": 0.5}, 512, 512),
        ("stage2_1", 5e-5, {"t2i": 1.0, "lm_chat": 0.5, "mmu": 0.5}, 512, 512),
        ("stage2_2", 5e-5, {"t2i": 0.05, "lm_chat": 0.6, "mmu": 0.4, "r2i": 0.05}, 512, 512),
    ],
)
def test_a_stage_has_the_published_values(name, lr, coefs, resolution, room):
    config = stage(name)
    assert config.actor.adam.lr == lr
    assert {k: m.loss_coef for k, m in config.modalities.items()} == coefs
    assert config.image.resolution == resolution
    assert config.layout.max_text_tokens == room
    assert config.actor.num_ranks == 64


@pytest.mark.parametrize(
    ("name", "batches", "floor"),
    [
        ("stage1_1", {"t2i": 7 * 2, "lm": 2 * 2, "mmu": 6 * 2}, 0.0),
        ("stage1_2", {"t2i": 7 * 2, "lm": 2 * 2, "mmu": 3 * 2}, 0.1),
        ("stage1_3", {"t2i": 4 * 4, "lm_chat": 1 * 4, "mmu": 1 * 4}, 0.1),
        ("stage2_1", {"t2i": 1 * 4, "lm_chat": 2 * 4, "mmu": 1 * 4}, 0.1),
        ("stage2_2", {"t2i": 1 * 4, "lm_chat": 2 * 4, "mmu": 1 * 4, "r2i": 1}, 0.1),
    ],
)
def test_a_stage_has_the_published_batches_of_each_gpu_and_schedule(name, batches, floor):
    config = stage(name)
    assert {k: m.batch_size / 64 for k, m in config.modalities.items()} == batches
    assert config.actor.min_lr_ratio == floor
    assert config.actor.lr_warmup_ratio * config.train.num_steps == pytest.approx(5000)
    adam = config.actor.adam
    assert (adam.betas, adam.eps, adam.weight_decay, config.actor.max_norm) == ((0.9, 0.999), 1e-8, 0.01, 1.0)
    assert all(getattr(config.validation, name).sources for name in config.modalities), "every loss has held-out rows"


def test_images_are_stretched_or_padded_as_in_the_released_loaders():
    sources = stage("stage2_2").mmu.sources
    fits = {name: source.fit for name, source in sources.items()}
    assert fits == {"cot": "stretch", "llava_v1_5": "stretch", "clevr_cogent": "stretch", "geo170k": "pad"}


def test_the_mixing_of_stage_2_2_is_the_published_one():
    config = stage("stage2_2")
    assert list(config.lm_chat.sources) == ["falcon-refinedweb", "instruct"]
    assert [s.weight for s in config.lm_chat.sources.values()] == [0.02, 0.98]
    assert [s.weight for s in config.mmu.sources.values()] == [3.5, 5.5, 0.5, 0.5]
