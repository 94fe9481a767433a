"""Compares the transformer with the numbers of the original, and its optimizations with full computations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from unigrpo.models import output_head
from unigrpo.models.fused_ops import rotate
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.transformer_block import RMSNorm, rotary_table

LOGITS: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-4}
"""Tolerance of the golden cases for float32 through two layers."""
VOCAB_SIZE = 40


@pytest.fixture
def tiny():
    """Returns a model with random weights of three layers, with two key heads for four query heads."""
    torch.manual_seed(0)
    config = MMadaConfig(
        d_model=16,
        n_layers=3,
        n_heads=4,
        n_kv_heads=2,
        mlp_hidden_size=24,
        vocab_size=VOCAB_SIZE,
        init_std=0.3,
        attn_implementation="eager",
    )
    return MMadaModelLM(config).eval()


@pytest.fixture
def tokens():
    return torch.randint(0, VOCAB_SIZE, (2, 9), generator=torch.Generator().manual_seed(1))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


# Comparisons with the original.


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_and_hidden_states_are_those_of_the_original(golden, golden_model, attention):
    _, arrays = golden("transformer_nobias")
    model = golden_model("transformer_nobias", attention=attention)
    out = model(arrays["in.input_ids"], output_hidden_states=True)
    torch.testing.assert_close(out.logits, arrays["out.logits"], **LOGITS)
    torch.testing.assert_close(out.hidden_states[0], arrays["out.hidden.0"], **LOGITS)
    torch.testing.assert_close(out.hidden_states[1], arrays["out.hidden.1"], **LOGITS)
    # The last state of the original is the output of the final norm.
    torch.testing.assert_close(model.transformer.ln_f(out.hidden_states[2]), arrays["out.hidden.2"], **LOGITS)
    nothing_hidden = model(arrays["in.input_ids"], attention_mask=torch.ones(2, 12, dtype=torch.bool))
    assert torch.equal(nothing_hidden.logits, out.logits)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_left_padding_gives_the_logits_of_the_original(golden, golden_model, attention):
    _, arrays = golden("transformer_boolbias_leftpad")
    model = golden_model("transformer_boolbias_leftpad", attention=attention)
    real = arrays["in.attention_mask"].bool()
    assert not real.all()
    for mask in (real, arrays["in.attention_bias"].bool()):
        logits = model(arrays["in.input_ids"], attention_mask=mask).logits
        torch.testing.assert_close(logits[real], arrays["out.logits"][real], **LOGITS)


def test_a_mask_with_zeros_does_not_turn_the_model_causal_as_the_original_does(golden, golden_model):
    _, arrays = golden("transformer_hf_attention_mask_trap")
    model = golden_model("transformer_hf_attention_mask_trap")
    real = arrays["in.attention_mask"].bool()
    logits = model(arrays["in.input_ids"], attention_mask=real).logits
    torch.testing.assert_close(logits[real], arrays["alt.logits_key_padding_bidirectional"][real], **LOGITS)


def test_a_sequence_may_be_longer_than_max_sequence_length(golden, golden_model):
    _, arrays = golden("transformer_long")
    model = golden_model("transformer_long")
    assert arrays["in.input_ids"].shape[1] > model.config.max_sequence_length
    torch.testing.assert_close(model(arrays["in.input_ids"]).logits, arrays["out.logits"], **LOGITS)


def test_embeddings_may_take_the_place_of_ids(golden, golden_model):
    _, arrays = golden("transformer_inputs_embeds")
    logits = golden_model("transformer_inputs_embeds")(inputs_embeds=arrays["in.inputs_embeds"]).logits
    torch.testing.assert_close(logits, arrays["out.logits"], **LOGITS)


def test_errors_of_bfloat16_are_no_larger_than_those_of_the_original(golden, golden_model):
    _, arrays = golden("transformer_bf16")
    logits = golden_model("transformer_bf16").bfloat16()(arrays["in.input_ids"]).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), arrays["out.logits"], rtol=0.05, atol=0.35)
    error = (logits.float() - arrays["alt.logits_float32"]).abs().mean()
    error_of_original = (arrays["out.logits"] - arrays["alt.logits_float32"]).abs().mean()
    assert error < 1.3 * error_of_original


def test_rotation_is_that_of_the_original(golden):
    params, arrays = golden("unit_rope")
    cos, sin = rotary_table(len(arrays["out.cos"]), params["head_dim"], params["rope_theta"], torch.device("cpu"))
    close: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(cos, arrays["out.cos"], **close)
    torch.testing.assert_close(sin, arrays["out.sin"], **close)
    for name in ("q", "k"):
        x = arrays[f"in.{name}"]
        torch.testing.assert_close(rotate(x, cos[: x.shape[2]], sin[: x.shape[2]]), arrays[f"out.{name}"], **close)


@pytest.mark.parametrize(("suffix", "expected"), [("", "out.float32"), ("_bf16", "out.bf16")])
def test_the_norm_is_that_of_the_original(golden, suffix, expected):
    params, arrays = golden("unit_rmsnorm")
    x, weight = arrays[f"in.x{suffix}"], arrays[f"in.weight{suffix}"]
    norm = RMSNorm(x.shape[-1], params["eps"]).to(x.dtype)
    norm.load_state_dict({"weight": weight})
    exact = bool(suffix)  # the order of rounding matters only in bfloat16
    torch.testing.assert_close(norm(x), arrays[expected], rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6)


def test_the_published_model_has_its_published_size():
    config = MMadaConfig(
        d_model=4096, n_layers=32, n_heads=32, mlp_hidden_size=12288, vocab_size=134656, embedding_size=134656
    )
    with torch.device("meta"):
        parameters = dict(MMadaModelLM(config).named_parameters())
    assert len(parameters) == 291
    assert sum(p.numel() for p in parameters.values()) == 8_082_690_048


# Tests of attention.


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_on_either_side_changes_nothing(tiny, tokens, attention):
    tiny.config._attn_implementation = attention
    alone = tiny(tokens).logits
    for left, right in [(3, 0), (0, 2), (1, 4)]:
        padded = torch.nn.functional.pad(tokens, (left, right), value=7)
        real = torch.nn.functional.pad(torch.ones_like(tokens), (left, right)).bool()
        logits = tiny(padded, attention_mask=real).logits[real].view_as(alone)
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)


def test_every_position_attends_to_every_other(tiny, tokens):
    before = tiny(tokens).logits
    for changed in (0, 8):
        other = tokens.clone()
        other[:, changed] = (other[:, changed] + 1) % VOCAB_SIZE
        assert ((tiny(other).logits - before).abs().amax(dim=-1) > 1e-5).all()


def test_eager_and_sdpa_attention_agree_in_value_and_gradient(tiny, tokens):
    real = torch.ones_like(tokens).bool()
    real[0, :4] = False
    results = []
    for attention in ("eager", "sdpa"):
        tiny.config._attn_implementation = attention
        logits = tiny(tokens, attention_mask=real).logits[real]
        results.append((logits.detach(), gradients(tiny, logits.square().mean())))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_gives_finite_gradients(tiny, tokens, attention):
    tiny.config._attn_implementation = attention
    real = torch.ones_like(tokens).bool()
    real[0, :8] = False
    real[1] = False
    # Kernels differ in the result of a query without keys, so there must be no such query.
    assert tiny._attention_mask(real).any(dim=-1).all()
    grads = gradients(tiny, tiny(tokens, attention_mask=real).logits.sum())
    assert all(gradient.isfinite().all() for gradient in grads.values())


@pytest.mark.wrong_types
def test_a_mask_of_floats_is_refused(tiny, tokens):
    with pytest.raises(ValueError, match=r"attention_mask is torch.float32.*True"):
        tiny(tokens, attention_mask=torch.zeros(2, 1, 9, 9))


def test_gradient_checkpointing_gives_the_same_gradients(tiny, tokens):
    tiny.train()
    calls = []
    tiny.transformer.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    plain = gradients(tiny, tiny(tokens).logits.square().mean())
    assert len(calls) == 1
    tiny.gradient_checkpointing_enable()
    checkpointed = gradients(tiny, tiny(tokens).logits.square().mean())
    assert len(calls) == 3, "the backward pass must run the block again"
    torch.testing.assert_close(checkpointed, plain, rtol=0, atol=0)


# Tests of the head at requested positions.


def test_logits_at_positions_are_those_of_the_whole(tiny, tokens):
    positions = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    whole = tiny(tokens).logits
    torch.testing.assert_close(tiny(tokens, positions=positions).logits, whole[positions], rtol=1e-5, atol=1e-6)
    part = tiny(tokens, positions=positions, vocab_slice=(10, 25)).logits
    torch.testing.assert_close(part, whole[positions][:, 10:25], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("vocab_slice", [None, (10, 25)])
@pytest.mark.parametrize("chunk_rows", [3, 1024])
def test_log_probs_are_the_softmax_at_the_positions(tiny, tokens, monkeypatch, chunk_rows, vocab_slice, temperature):
    monkeypatch.setattr(output_head, "HEAD_CHUNK_ROWS", chunk_rows)
    generator = torch.Generator().manual_seed(3)
    positions = torch.rand(tokens.shape, generator=generator) < 0.6
    first, end = vocab_slice or (0, VOCAB_SIZE)
    targets = torch.randint(first, end, (int(positions.sum()),), generator=generator)
    weight = torch.randn(len(targets), generator=generator)
    assert len(targets) > 3

    whole = tiny(tokens).logits[positions][:, first:end] / temperature
    expected = whole.log_softmax(-1)[torch.arange(len(targets)), targets - first]
    out = tiny(tokens, positions=positions, targets=targets, vocab_slice=vocab_slice, temperature=temperature)
    assert out.logits is None
    torch.testing.assert_close(out.log_probs, expected, rtol=1e-5, atol=1e-5)
    # Sums in float32 have another order; the difference is 1.4e-5 with the CUDA build of torch.
    torch.testing.assert_close(
        gradients(tiny, out.log_probs @ weight), gradients(tiny, expected @ weight), rtol=1e-4, atol=3e-5
    )
    with torch.no_grad():
        again = tiny(tokens, positions=positions, targets=targets, vocab_slice=vocab_slice, temperature=temperature)
    assert torch.equal(again.log_probs, out.log_probs)


def test_no_more_rows_of_logits_than_a_chunk_exist_at_once(tiny, tokens, monkeypatch):
    monkeypatch.setattr(output_head, "HEAD_CHUNK_ROWS", 4)
    rows, compute = [], output_head.wide_linear
    monkeypatch.setattr(
        output_head, "wide_linear", lambda hidden, weight: rows.append(len(hidden)) or compute(hidden, weight)
    )
    out = tiny(tokens, positions=torch.ones_like(tokens).bool(), targets=tokens.flatten())
    assert rows == [4, 4, 4, 4, 2]
    out.log_probs.sum().backward()
    assert len(rows) == 10, "the backward pass must compute the logits again"


@pytest.mark.parametrize("num_sliced", [None, 0, 5, 18])
def test_a_pass_calls_the_head_once_for_any_rows(tiny, tokens, monkeypatch, num_sliced):
    """With ZeRO-3, each call gathers the weights of the head from all ranks, which wait for each other."""
    monkeypatch.setattr(output_head, "HEAD_CHUNK_ROWS", 4)
    is_sliced = None if num_sliced is None else torch.arange(18) < num_sliced
    calls = []
    tiny.transformer.ff_out.register_forward_hook(lambda *_: calls.append(1))
    everywhere = torch.ones_like(tokens).bool()
    targets = torch.full((18,), 12)
    out = tiny(tokens, positions=everywhere, targets=targets, vocab_slice=(10, 20), is_sliced=is_sliced)
    out.log_probs.sum().backward()
    assert len(calls) == 1


def test_log_probs_of_bfloat16_weights_are_float32(tiny, tokens):
    out = tiny.bfloat16()(tokens, positions=torch.ones_like(tokens).bool(), targets=tokens.flatten())
    assert out.log_probs.dtype == torch.float32


def test_no_position_gives_no_log_prob_and_a_gradient_of_zero(tiny, tokens):
    nowhere = torch.zeros_like(tokens).bool()
    out = tiny(tokens, positions=nowhere, targets=torch.zeros(0, dtype=torch.long))
    assert out.log_probs.shape == (0,)
    grads = gradients(tiny, out.log_probs.sum())
    assert all((gradient == 0).all() for gradient in grads.values())


@pytest.mark.parametrize(("positions", "num_targets"), [(False, 18), (True, 17)])
def test_one_target_per_position_is_required(tiny, tokens, positions, num_targets):
    everywhere = torch.ones_like(tokens).bool() if positions else None
    with pytest.raises(ValueError, match=f"{num_targets} targets for"):
        tiny(tokens, positions=everywhere, targets=torch.zeros(num_targets, dtype=torch.long))


def test_a_target_outside_the_slice_is_an_error(tiny, tokens):
    tiny.transformer.ff_out = output_head.Head(16, 200, bias=False)
    everywhere = torch.ones_like(tokens).bool()
    targets = torch.full((18,), 50)  # 100 before the slice would be -100, which a cross-entropy ignores
    with pytest.raises(RuntimeError, match="out of bounds"):
        tiny(tokens, positions=everywhere, targets=targets, vocab_slice=(150, 200))


# Tests of saved models.


def test_a_saved_model_loads_bit_for_bit_under_the_published_names(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    block = {"attn_norm", "ff_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"}
    assert set(stored) == {
        *(f"model.transformer.{name}.weight" for name in ("wte", "ln_f", "ff_out")),
        *(f"model.transformer.blocks.{i}.{name}.weight" for i in range(3) for name in block),
    }
    loaded = MMadaModelLM.from_pretrained(tmp_path)
    for name, parameter in tiny.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], parameter), name
        assert torch.equal(stored[name], parameter), name
    assert loaded.config.n_kv_heads == 2


def test_head_and_embedding_do_not_share_weights(tiny):
    assert tiny.get_output_embeddings().weight is not tiny.get_input_embeddings().weight
    assert tiny.config.tie_word_embeddings is False


def test_targets_of_two_vocabularies_and_temperatures_are_those_of_separate_passes(tiny, tokens):
    positions = torch.zeros_like(tokens, dtype=torch.bool)
    positions[:, ::2] = True
    num = int(positions.sum())
    targets = torch.arange(num) % 15 + 10
    is_sliced = torch.arange(num) % 3 == 0
    temperature = torch.where(is_sliced, 0.7, 1.3)
    out = tiny(
        tokens,
        positions=positions,
        targets=targets,
        vocab_slice=(10, 25),
        is_sliced=is_sliced,
        temperature=temperature,
    ).log_probs
    logits = tiny(tokens, positions=positions).logits.double()
    for row in range(num):
        ids, divisor = (logits[row, 10:25], 0.7) if is_sliced[row] else (logits[row], 1.3)
        wanted = targets[row] - 10 if is_sliced[row] else targets[row]
        assert out[row].item() == pytest.approx((ids / divisor).log_softmax(0)[wanted].item(), abs=1e-5)
