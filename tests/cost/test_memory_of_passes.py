"""Compares the memory plan with passes of the 8B model under FakeTensorMode, in which tensors have no memory.

All layers are equal, so most tests use four of the 32 layers and a plan of four layers; a slow test uses all layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_memory import LiveBytes, fake_memory
from torch._subclasses.fake_tensor import FakeTensorMode

from unigrpo.config import ImageSamplingConfig, LoRAConfig, TextSamplingConfig
from unigrpo.cost.memory import ModelSize, image_coding_gb, image_tokenizer_gb, logit_copies, sampling_gb, scoring_gb
from unigrpo.cost.memory import update_gb as planned_update_gb
from unigrpo.models import wide_linear
from unigrpo.models.image_tokenizer import IMAGE_BATCH_SIZE, ImageTokenizer, ImageTokenizerConfig
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling import image as image_sampling
from unigrpo.models.sampling import text as text_sampling
from unigrpo.models.sampling.cache import KeyValueCache
from unigrpo.models.vocabulary import PUBLISHED_CODEBOOK_SIZE, PUBLISHED_IDS, Vocabulary

ROW = 1792
"""Number of tokens of the longest row of launch/configs/mmada_8b/unigrpo.yaml: an image, a question and an answer."""
WITHIN = 0.1
VOCABULARY = Vocabulary(
    **{f"{name}_id": number for name, number in PUBLISHED_IDS.items()},
    end_header_id=3,
    image_offset=126_349,
    codebook_size=PUBLISHED_CODEBOOK_SIZE,
)


@pytest.fixture(scope="module")
def fakes() -> tuple[FakeTensorMode, LiveBytes, MMadaModelLM]:
    """Returns a fake model in bfloat16."""
    fake, live = FakeTensorMode(allow_non_fake_inputs=True), LiveBytes()
    with fake, live:
        return fake, live, build(config())


@pytest.fixture
def live(
    fakes: tuple[FakeTensorMode, LiveBytes, MMadaModelLM], monkeypatch: pytest.MonkeyPatch
) -> Iterator[LiveBytes]:
    """Counts the bytes that the tensors of the test, which are fake, would have on a GPU."""
    monkeypatch.setattr(wide_linear, "has_wide_product", lambda x: True)
    with fakes[0], fakes[1]:
        yield fakes[1]


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Returns noise of the same size without a generator, because fake tensors do not support one."""
    for sampling in (text_sampling, image_sampling):
        monkeypatch.setattr(sampling, "exponential_noise", lambda counts, size, *_: torch.empty(sum(counts), size))
    monkeypatch.setattr(text_sampling, "uniform_noise", lambda counts, *_: torch.empty(sum(counts)))


@pytest.fixture
def model(fakes: tuple[FakeTensorMode, LiveBytes, MMadaModelLM]) -> MMadaModelLM:
    return fakes[2]


def config(**sizes: Any) -> MMadaConfig:
    sized = MMadaConfig(**{"n_layers": 4, **sizes})
    sized._attn_implementation = "sdpa"
    return sized


def build(sized: MMadaConfig, dtype: torch.dtype = torch.bfloat16) -> MMadaModelLM:
    torch.set_default_dtype(dtype)
    try:
        return MMadaModelLM(sized)
    finally:
        torch.set_default_dtype(torch.float32)


def size(sized: MMadaConfig) -> ModelSize:
    return ModelSize.of(sized, LoRAConfig())


def inputs(rows: int, read: int) -> dict[str, Any]:
    """Returns the arguments of a pass over whole rows, whose first ``read`` tokens are scored."""
    positions = torch.zeros(rows, ROW, dtype=torch.bool)
    return {
        "input_ids": torch.zeros(rows, ROW, dtype=torch.long),
        "positions": positions,
        "num_positions": rows * read,
        "targets": torch.zeros(rows * read, dtype=torch.long),
    }


def measured_scoring(model: MMadaModelLM, live: LiveBytes, rows: int, **more: Any) -> float:
    with live.measured() as found, torch.no_grad():
        model.eval()(**inputs(rows, 512), **more)
    return found[0]


def measured_update(model: MMadaModelLM, live: LiveBytes, rows: int, read: int, *, is_recomputed: bool) -> float:
    """Measures forward and backward pass without the gradients of weights, which are dropped as soon as they exist."""

    def drop(parameter: torch.Tensor) -> None:
        parameter.grad = None

    model.gradient_checkpointing = is_recomputed
    hooks = [parameter.register_post_accumulate_grad_hook(drop) for parameter in model.train().parameters()]
    with live.measured() as found:
        log_probs = model(**inputs(rows, read)).log_probs
        log_probs.sum().backward()
    for hook in hooks:
        hook.remove()
    return found[0]


def test_hidden_states_of_all_layers_are_kept_only_on_request(live, model):
    """For 16 rows of 1,792 tokens, there are 9 tensors of the width of the model, 0.235 GB each, and one per layer."""
    one = 16 * ROW * 4096 * 2 / 1e9
    assert measured_scoring(model, live, 16) == pytest.approx(9 * one, rel=0.05)
    assert measured_scoring(model, live, 16, output_hidden_states=True) > 11 * one


def test_scoring(live, model):
    assert scoring_gb(size(config()), 16 * ROW, "bf16") == pytest.approx(measured_scoring(model, live, 16), rel=WITHIN)


@pytest.mark.parametrize("is_recomputed", [False, True])
@pytest.mark.parametrize(("rows", "read"), [(4, 1024), (2, 256)])
def test_update(rows, read, is_recomputed, live, model):
    found = measured_update(model, live, rows, read, is_recomputed=is_recomputed)
    planned = planned_update_gb(size(config()), rows * ROW, "bf16", rows * read, is_recomputed=is_recomputed)
    assert planned == pytest.approx(found, rel=WITHIN)


def test_fewer_heads_of_keys_a_wider_mlp_and_float32():
    sized = config(n_layers=3, n_kv_heads=8, mlp_hidden_size=16_384)
    with fake_memory() as live:
        model = build(sized, torch.float32)
        scoring = measured_scoring(model, live, 8)
        update = measured_update(model, live, 4, 512, is_recomputed=False)
    assert scoring_gb(size(sized), 8 * ROW, "fp32") == pytest.approx(scoring, rel=WITHIN)
    assert planned_update_gb(size(sized), 4 * ROW, "fp32", is_recomputed=False) == pytest.approx(update, rel=WITHIN)


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        (16, {"cache": "dual", "guidance_scale": 1.0}),
        (64, {"cache": "none", "temperature": 0.7}),
        (64, {"cache": "dual", "top_p": 0.9}),
    ],
    ids=str,
)
def test_text_sampling(rows, changes, live, model, noise):
    settings = TextSamplingConfig(**changes)
    cache = None if settings.cache == "none" else KeyValueCache()
    numbers, generators = [settings.block_length] * rows, [torch.Generator() for _ in range(rows)]
    prompt = torch.zeros(ROW - settings.max_new_tokens, dtype=torch.long)
    with live.measured() as found, torch.no_grad():
        batch = text_sampling._start(
            [prompt] * rows, [torch.empty(0)] * rows, settings, VOCABULARY, generators, torch.device("cpu")
        )
        columns = slice(batch.prompt_length, batch.prompt_length + settings.block_length)
        masked = torch.ones(rows, settings.block_length, dtype=torch.bool)
        logits = text_sampling._logits(model.eval(), batch, columns, masked, sum(numbers), settings, VOCABULARY, cache)
        text_sampling._candidates(logits, numbers, generators, settings, VOCABULARY)
    guided = 2 if settings.guidance_scale else 1
    planned = sampling_gb(
        size(config()),
        "bf16",
        tokens=guided * rows * ROW,
        cached_tokens=0 if cache is None else guided * rows * ROW,
        num_logits=rows * settings.block_length * 134_656,
        copies=logit_copies(settings.temperature, settings.top_p, settings.guidance_scale),
    )
    assert planned == pytest.approx(found[0], rel=WITHIN)


@pytest.mark.parametrize("changes", [{"cache": "text"}, {"cache": "none"}], ids=str)
def test_image_sampling(changes, live, model, noise):
    settings, rows, prompt = ImageSamplingConfig(**changes), 16, 512
    with live.measured() as found, torch.no_grad():
        batch = image_sampling._start(
            [torch.zeros(prompt, dtype=torch.long)] * rows,
            [torch.zeros(4, dtype=torch.long)] * rows,
            settings,
            VOCABULARY,
            [torch.Generator() for _ in range(rows)],
            None,
            torch.device("cpu"),
        )
        hidden = torch.ones(rows, settings.num_image_tokens, dtype=torch.bool)
        left = [settings.num_image_tokens] * rows
        image_sampling._candidates(model.eval(), batch, hidden, left, settings, VOCABULARY)
    tokens = rows * (prompt + settings.num_image_tokens + 1)
    unconditional = rows * (settings.num_image_tokens + 5)
    planned = sampling_gb(
        size(config()),
        "bf16",
        tokens=tokens,
        cached_tokens=0 if settings.cache == "none" else tokens + unconditional,
        num_logits=rows * settings.num_image_tokens * PUBLISHED_CODEBOOK_SIZE,
        copies=logit_copies(settings.temperature, 1.0, settings.guidance_scale),
    )
    assert planned == pytest.approx(found[0], rel=WITHIN)


def test_image_tokenizer():
    with fake_memory() as live, torch.no_grad():
        with live.measured() as weights:
            tokenizer = ImageTokenizer(ImageTokenizerConfig())
        with live.measured() as encoding:
            tokenizer.latents(torch.zeros(IMAGE_BATCH_SIZE, 3, 512, 512))
        with live.measured() as decoding:
            tokenizer.decoder(torch.zeros(IMAGE_BATCH_SIZE, 13, 32, 32))
    assert image_tokenizer_gb() == pytest.approx(weights[0], rel=WITHIN)
    assert image_coding_gb(512) == pytest.approx(max(encoding[0], decoding[0]), rel=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize("is_recomputed", [False, True])
def test_all_32_layers(is_recomputed):
    sized = config(n_layers=32)
    with fake_memory() as live:
        model = build(sized)
        found = measured_scoring(model, live, 16)
        assert found < 3.8
        assert scoring_gb(size(sized), 16 * ROW, "bf16") == pytest.approx(found, rel=WITHIN)
        found = measured_update(model, live, 4, 1024, is_recomputed=is_recomputed)
    assert planned_update_gb(size(sized), 4 * ROW, "bf16", is_recomputed=is_recomputed) == pytest.approx(
        found, rel=WITHIN
    )
