"""Compares key-value caches with a transformer that is written out, and with no cache in cases where caches are
exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from unigrpo.config import ImageSamplingConfig
from unigrpo.models.fused_ops import rotate
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling.cache import KeyValueCache
from unigrpo.models.sampling.image import sample_images
from unigrpo.models.transformer_block import eager_attention, rotary_table
from unigrpo.models.vocabulary import Vocabulary

MASK, END, SOI = 37, 24, 2
SETTINGS = {"max_new_tokens": 12, "block_length": 4, "num_denoising_steps": 12}
CACHES = ["prefix", "dual"]


def random_model(num_layers: int) -> MMadaModelLM:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 16, "n_heads": 2, "mlp_hidden_size": 32, "vocab_size": 50, "init_std": 0.4}
    return MMadaModelLM(MMadaConfig(n_layers=num_layers, **sizes)).eval()


@pytest.fixture(params=[False, True], ids=["one length", "mixed lengths"])
def prompts(request):
    generator = torch.Generator().manual_seed(1)
    lengths = (3, 9, 1, 6) if request.param else (5, 5, 5, 5)
    return [torch.randint(2, 20, (length,), generator=generator) for length in lengths]


def spied(model):
    """Returns the model, and a list that records the length of its rows in each pass."""
    widths: list[int] = []

    def spy(tokens, **kwargs):
        widths.append(tokens.shape[1])
        return model(tokens, **kwargs)

    return spy, widths


@torch.no_grad()
def written_out(model, tokens, real, window, border):
    """Returns the logits of the window. Keys and values of other tokens are those of the pass with the tokens
    ``border``."""
    head_dim = model.config.d_model // model.config.n_heads
    cos, sin = rotary_table(tokens.shape[1], head_dim, model.config.rope_theta, tokens.device)
    rows = []
    for row, old, seen in zip(tokens, border, real, strict=True):
        columns = torch.arange(len(row))[seen]
        inside = torch.isin(columns, torch.arange(len(row))[window])
        old_hidden = model.transformer.wte(old[columns])[None]
        hidden = model.transformer.wte(row[columns])[None]
        for block in model.transformer.blocks:
            mixed = torch.where(inside[:, None], block.attn_norm(hidden), block.attn_norm(old_hidden))

            def heads(x):
                return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)

            def attend(queries, keys, block=block, cos=cos[columns], sin=sin[columns]):
                q, k = (rotate(heads(p(x)), cos, sin) for p, x in ((block.q_proj, queries), (block.k_proj, keys)))
                out, _ = eager_attention(block, q, k, heads(block.v_proj(keys)), None, head_dim**-0.5)
                return block.attn_out(out.flatten(-2))

            def step(x, keys, block=block, attend=attend):
                x = x + attend(block.attn_norm(x), keys)
                h = block.ff_norm(x)
                return x + block.ff_out(F.silu(block.ff_proj(h)) * block.up_proj(h))

            hidden, old_hidden = step(hidden, mixed), step(old_hidden, block.attn_norm(old_hidden))
        rows.append(model.transformer.ff_out(model.transformer.ln_f(hidden[0]))[inside])
    return torch.stack(rows)


@torch.no_grad()
@pytest.mark.parametrize("stop", [12, 16], ids=["dual", "prefix"])
def test_a_pass_over_a_window_is_the_transformer_with_old_keys_and_values_elsewhere(stop):
    model, window = random_model(3), slice(8, stop)
    generator = torch.Generator().manual_seed(3)
    border = torch.randint(0, 36, (3, 16), generator=generator)
    real = torch.arange(16) >= torch.tensor([0, 4, 7])[:, None]
    cache = KeyValueCache()
    whole = model(border, attention_mask=real, cache=cache).logits
    torch.testing.assert_close(whole, model(border, attention_mask=real).logits)
    tokens = border.clone()
    for _ in range(2):  # the second pass uses the cache that the first one wrote
        tokens[:, window] = torch.randint(0, 36, tokens[:, window].shape, generator=generator)
        cache.first = window.start
        found = model(tokens[:, window], attention_mask=real, cache=cache).logits
        expected = written_out(model, tokens, real, window, border)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, model(tokens, attention_mask=real).logits[:, window], atol=1e-2)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("changes", [{}, {"guidance_scale": 1.5}, {"threshold": 0.3}], ids=str)
def test_with_one_layer_the_caches_change_nothing(sample, prompts, cache, changes):
    """Keys and values of the first layer depend only on their own token."""
    model, widths = spied(random_model(1))
    plain = sample(model, prompts, **SETTINGS, **changes)
    passes = len(widths)
    cached = sample(model, prompts, cache=cache, **SETTINGS, **changes)
    assert len(widths) == 2 * passes
    for one, other in zip(cached, plain, strict=True):
        assert torch.equal(one.token_ids, other.token_ids)
        assert torch.equal(one.commit_step, other.commit_step)
        torch.testing.assert_close(one.commit_log_probs, other.commit_log_probs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cache", CACHES)
def test_only_the_first_pass_of_a_block_computes_whole_rows(sample, cache):
    model, widths = spied(random_model(2))
    sample(model, [torch.tensor([5, 6])], cache=cache, stop_at_end_of_text=False, **SETTINGS)
    behind = {"dual": [4, 4, 4], "prefix": [12, 8, 4]}[cache]
    assert widths == [width for rest in behind for width in (14, rest, rest, rest)]


@pytest.mark.parametrize("cache", CACHES)
def test_with_a_cache_a_batch_of_mixed_lengths_equals_one_by_one(sample, prompts, cache):
    model = random_model(3)

    def ending(tokens, **kwargs):
        out = model(tokens, **kwargs)
        out.logits[:, END] += 2.2
        return out

    together = sample(ending, prompts, cache=cache, **SETTINGS)
    assert len({int((one.commit_step >= 0).sum()) for one in together}) > 1, "all samples end at the same time"
    for i, prompt in enumerate(prompts):
        (alone,) = sample(ending, [prompt], seeds=[i], cache=cache, **SETTINGS)
        assert torch.equal(together[i].token_ids, alone.token_ids)
        torch.testing.assert_close(together[i].commit_log_probs, alone.commit_log_probs, rtol=1e-4, atol=1e-4)


def images(model, prompts, **settings):
    vocabulary = Vocabulary(
        mask_id=MASK, begin_of_text_id=4, end_of_text_id=END, image_pad_id=6, soi_id=SOI, eoi_id=3, t2i_id=7,
        mmu_id=8, r2i_id=9, end_header_id=None, image_offset=40, codebook_size=10,
    )  # fmt: skip
    values = {"num_image_tokens": 16, "num_denoising_steps": 4, "guidance_scale": 2.0} | settings
    return sample_images(
        model,
        prompts,
        ImageSamplingConfig(**values),
        vocabulary,
        generators=[torch.Generator().manual_seed(i) for i in range(len(prompts))],
        unconditional=[torch.tensor([7, SOI])] * len(prompts),
    )


def test_with_one_layer_the_prompt_of_an_image_may_be_cached(prompts):
    model, widths = spied(random_model(1))
    plain, passes = images(model, prompts), len(widths)
    cached = images(model, prompts, cache="text")
    for one, other in zip(cached, plain, strict=True):
        assert torch.equal(one.token_ids, other.token_ids)
        torch.testing.assert_close(one.commit_log_probs, other.commit_log_probs, rtol=1e-4, atol=1e-4)
    assert set(widths[passes + 2 :]) == {17}, "later steps compute more than image and end-of-image"


def test_a_cached_prompt_is_not_exact_with_more_layers(prompts):
    plain, cached = images(random_model(3), prompts), images(random_model(3), prompts, cache="text")
    gaps = [
        (one.commit_log_probs - other.commit_log_probs).abs().max() for one, other in zip(plain, cached, strict=True)
    ]
    assert max(gaps) > 1e-3


@pytest.mark.parametrize("cache", ["none", *CACHES])
@pytest.mark.parametrize("guidance_scale", [0.0, 1.5])
def test_with_a_threshold_rows_leave_a_block_that_they_have_finished(sample, prompts, cache, guidance_scale):
    """Samples of a batch that becomes smaller equal those of batches of one prompt, which cannot become smaller."""
    model, rows, prompts = random_model(3), [], prompts * 3

    def spy(tokens, **kwargs):
        rows.append(len(tokens))
        return model(tokens, **kwargs)

    settings: dict[str, Any] = {"max_new_tokens": 24, "block_length": 12, "num_denoising_steps": 24}
    settings |= {"threshold": 0.2, "cache": cache, "guidance_scale": guidance_scale, "stop_at_end_of_text": False}
    together = sample(spy, prompts, **settings)
    copies = 2 if guidance_scale else 1
    assert min(rows) < 12 * copies, "no pass over fewer rows"
    for i, prompt in enumerate(prompts):
        (alone,) = sample(model, [prompt], seeds=[i], **settings)
        assert torch.equal(together[i].token_ids, alone.token_ids)
        assert torch.equal(together[i].commit_step, alone.commit_step)
        torch.testing.assert_close(together[i].commit_log_probs, alone.commit_log_probs, rtol=1e-4, atol=1e-4)
