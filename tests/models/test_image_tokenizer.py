"""Compares the image tokenizer with the numbers of the original, and tests its errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conformance_cases.case import recipe_weights
from transformers import AutoConfig, AutoModel

from unigrpo.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from unigrpo.models.magvit import SignQuantizer


def load_recipe(model, tensors, seed):
    """Loads the weights of a recipe, which must list exactly the parameters of the model."""
    problems = model.load_state_dict(recipe_weights(tensors, seed), strict=False)
    assert problems.unexpected_keys == []
    assert problems.missing_keys == ["quantize.embedding", "quantize.power_vals"]
    return model.eval()


def small(params):
    """Returns the config of a small golden case."""
    encoder, decoder = params["encoder"], params["decoder"]
    return ImageTokenizerConfig(
        num_bits=params["bits"],
        stem_channels=encoder["ch"],
        encoder_channels=[encoder["ch"] * m for m in encoder["ch_mult"]],
        encoder_blocks=encoder["num_res_blocks"],
        decoder_channels=[decoder["ch"] * m for m in decoder["ch_mult"]],
        decoder_blocks=decoder["num_res_blocks"],
    )


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    sizes = {"encoder_channels": [32, 32, 64], "decoder_channels": [32, 64, 64]}
    blocks = {"encoder_blocks": [1, 1, 1], "decoder_blocks": [1, 1, 1]}
    return ImageTokenizer(ImageTokenizerConfig(num_bits=5, stem_channels=32, **sizes, **blocks)).eval()


def test_small_tokenizers_encode_and_decode_as_the_original(golden):
    for case in ("magvit_small_a", "magvit_small_b"):
        params, arrays = golden(case)
        model = load_recipe(ImageTokenizer(small(params)), **params["weight_recipe"])
        compare(model, arrays, {"rtol": 0, "atol": 2e-4}, {"rtol": 0, "atol": 5e-4})
        (image,) = model.codes_to_images(arrays["in.codes_square"])
        expected = arrays["out.decoded_square_uint8"][0].int()
        assert (torch.from_numpy(np.array(image)).int() - expected).abs().max() <= 1


def compare(model, arrays, latents_tolerance, pixels_tolerance):
    pixels = arrays["in.image"]
    with torch.no_grad():
        torch.testing.assert_close(model.latents(pixels), arrays["out.pre_quant"], **latents_tolerance)
    codes = model.encode(pixels)
    assert torch.equal(codes, arrays["out.indices"])
    grid = (pixels.shape[2] // model.downscale, pixels.shape[3] // model.downscale)
    torch.testing.assert_close(model.decode(codes, grid), arrays["out.decoded_from_indices"], **pixels_tolerance)
    torch.testing.assert_close(model(pixels), arrays["out.decoded_from_indices"], **pixels_tolerance)
    square = model.decode(arrays["in.codes_square"])
    torch.testing.assert_close(square, arrays["out.decoded_square"], **pixels_tolerance)


def test_the_full_tokenizer_has_the_published_names_and_shapes(golden_folder):
    manifest = json.loads((golden_folder / "magvit_full_manifest.json").read_text())
    with torch.device("meta"):
        model = ImageTokenizer(ImageTokenizerConfig())
    expected = {t["name"]: t["shape"] for t in manifest["tensors"]}
    assert {name: list(p.shape) for name, p in model.named_parameters()} == expected
    assert {name: list(b.shape) for name, b in model.named_buffers()} == manifest["buffers"]
    assert model.state_dict().keys() == expected.keys() | manifest["buffers"].keys()
    assert model.num_parameters() == manifest["total_parameters"] == 95_387_004
    assert sum(p.numel() for p in model.encoder.parameters()) == manifest["encoder"]
    assert (model.downscale, model.codebook_size) == (16, 8192)


def test_the_full_tokenizer_encodes_and_decodes_as_the_original(golden, golden_folder):
    manifest = json.loads((golden_folder / "magvit_full_manifest.json").read_text())
    params, arrays = golden("magvit_full")
    assert params["weight_recipe"]["seed"] == manifest["seed"]
    model = load_recipe(ImageTokenizer(ImageTokenizerConfig()), manifest["tensors"], manifest["seed"])
    compare(model, arrays, {"rtol": 0, "atol": 1e-3}, {"rtol": 0, "atol": 2e-3})


@pytest.mark.parametrize("case", ["magvit_lfq_13bit", "magvit_lfq_5bit"])
def test_codes_are_the_signs_as_in_the_original(golden, case):
    params, arrays = golden(case)
    quantizer = SignQuantizer(params["bits"])
    assert torch.equal(quantizer.power_vals, arrays["out.power_vals"])
    assert torch.equal(quantizer.embedding[arrays["in.table_rows"]], arrays["out.table"])
    codes = quantizer.codes(arrays["in.z"])
    assert codes.dtype == torch.int64
    assert torch.equal(codes[:, None], arrays["out.indices"])
    torch.testing.assert_close(quantizer.bits(codes), arrays["out.z_q"], rtol=0, atol=2e-6)
    for shape, rows in (("square", 3), ("2x3", 2), ("3x2", 3)):
        flat = arrays[f"in.codes_{'square' if shape == 'square' else '2x3'}"]
        assert torch.equal(quantizer.bits(flat.unflatten(1, (rows, -1))), arrays[f"out.entry_{shape}"])
    # The original loses the sign of huge numbers in rounding; the expected value is the sign.
    assert torch.equal(quantizer.codes(arrays["in.z_huge"])[:, None], arrays["alt.indices_huge"])


def test_zero_is_a_negative_bit():
    quantizer = SignQuantizer(2)
    assert quantizer.codes(torch.tensor([0.0, -0.0]).view(1, 2, 1, 1)).item() == 0
    assert quantizer.codes(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)).item() == 2, "channel 0 is the highest bit"


def test_auto_classes_find_the_tokenizer(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), ImageTokenizerConfig)
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, ImageTokenizer)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in tiny.state_dict().items())


def test_images_of_a_batch_do_not_depend_on_each_other(tiny):
    pixels = torch.rand(10, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = tiny.encode(pixels)
    assert codes.shape == (10, 6)
    assert codes.unique().numel() > 1
    assert torch.equal(codes, torch.cat([tiny.encode(p[None]) for p in pixels]))
    images = tiny.codes_to_images(codes, (2, 3))
    assert [i.size for i in images] == [(12, 8)] * 10
    for image, own_codes in zip(images, codes, strict=True):
        (alone,) = tiny.codes_to_images(own_codes[None], (2, 3))
        assert np.abs(np.array(image).astype(int) - np.array(alone)).max() <= 1


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(3, 8, 8), r"of shape \(3, 8, 8\), expected floats"),
        (torch.zeros(1, 8, 8, 3), r"of shape \(1, 8, 8, 3\), expected floats"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"pixels are torch\.uint8"),
        (torch.zeros(1, 3, 8, 10), r"8 pixels high and 10 wide, expected multiples of 4"),
    ],
)
def test_tensors_that_are_no_images_are_refused(tiny, pixels, message):
    with pytest.raises(ValueError, match=message):
        tiny.encode(pixels)


@pytest.mark.parametrize(
    ("codes", "grid", "message"),
    [
        ([1] * 6, None, "6 codes do not fill a grid of 2 rows and 2 columns"),
        ([1] * 6, (2, 2), "6 codes do not fill a grid of 2 rows and 2 columns"),
        ([1, 2, 3, 32], None, r"codes are in 1\.\.32, expected 0\.\.31"),
        ([1, 2, 3, -1], None, r"codes are in -1\.\.3, expected 0\.\.31"),
    ],
)
def test_codes_that_are_no_image_are_refused(tiny, codes, grid, message):
    with pytest.raises(ValueError, match=message):
        tiny.decode(torch.tensor([codes]), grid)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"encoder_channels": [32, 48]}, r"encoder_channels is \[32, 48\], expected multiples of 32"),
        ({"decoder_blocks": [1, 1]}, r"decoder_blocks is \[1, 1\], expected one for each of encoder_channels"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        ImageTokenizerConfig(**sizes)
