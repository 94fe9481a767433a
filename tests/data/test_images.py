"""Preprocessing against the original's numbers, odd image files, and files that are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from unigrpo.data.images import Fit, image_pixels, read_image, square_pixels

FITS: tuple[Fit, ...] = ("crop", "stretch", "pad")
RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(width=12, height=8):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def colours(image):
    return [tuple(pixel) for pixel in np.array(image).reshape(-1, 3).tolist()]


@pytest.mark.parametrize("case", ["image_preprocess_0", "image_preprocess_1"])
def test_crop_and_squash_are_the_originals(golden, case):
    params, arrays = golden(case)
    image = Image.fromarray(arrays["in.image_uint8_hwc"].numpy())
    assert image.size == (params["width"], params["height"])
    crop, stretch = (square_pixels(image, params["resolution"], fit) for fit in FITS[:2])
    one_grey_level = 2 / 255 + 1e-6  # versions of Pillow round a few pixels of a resize differently
    torch.testing.assert_close(crop, arrays["out.resize_crop"], rtol=0, atol=one_grey_level)
    torch.testing.assert_close(stretch, arrays["out.squash"], rtol=0, atol=one_grey_level)


def test_pad_puts_white_on_both_sides_of_the_short_one():
    image = picture(12, 8)
    pixels = square_pixels(image, 12, "pad")
    assert (pixels[:, :2] == 1).all()
    assert (pixels[:, -2:] == 1).all()
    inside = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 * 2 - 1
    torch.testing.assert_close(pixels[:, 2:-2], inside, rtol=0, atol=1e-6)


def test_a_square_of_the_right_size_is_not_changed_by_any_fit():
    image = picture(8, 8)
    for fit in FITS:
        values = (square_pixels(image, 8, fit) + 1) / 2 * 255
        assert np.array_equal(values.round().byte().permute(1, 2, 0).numpy(), np.array(image))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 40), (40, 1), (9, 7)])
def test_any_shape_becomes_the_square_asked_for(width, height):
    for fit in FITS:
        pixels = square_pixels(picture(width, height), 8, fit)
        assert pixels.shape == (3, 8, 8)
        assert -1 <= pixels.min() <= pixels.max() <= 1


def test_files_become_a_batch(tmp_path):
    picture(12, 8).save(tmp_path / "a.png")
    picture(5, 9).convert("L").save(tmp_path / "b.webp", lossless=True)
    pixels = image_pixels([tmp_path / "a.png", str(tmp_path / "b.webp")], 8, "stretch")
    assert pixels.shape == (2, 3, 8, 8)
    assert torch.equal(pixels[0], square_pixels(picture(12, 8), 8, "stretch"))
    assert torch.equal(pixels[1, 0], pixels[1, 2]), "grey"


def test_another_fit_is_refused():
    with pytest.raises(ValueError, match=r"fit: no 'squash'; choose one of \['crop', 'pad', 'stretch'\]"):
        square_pixels(picture(), 8, "squash")  # type: ignore[arg-type]


# Kinds of files.


def test_what_is_transparent_is_white_and_not_what_lies_below(tmp_path):
    image = Image.new("RGBA", (3, 1))
    image.putdata([(*RED, 0), (*RED, 255), (*BLUE, 51)])
    image.save(tmp_path / "a.png")
    assert colours(read_image(tmp_path / "a.png")) == [(255, 255, 255), RED, (204, 204, 255)]


def test_palettes_with_and_without_transparency_are_read(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png")
    assert colours(read_image(tmp_path / "a.png")) == [RED, BLUE]
    image.save(tmp_path / "b.png", transparency=0)
    assert colours(read_image(tmp_path / "b.png")) == [(255, 255, 255), BLUE]


def test_grey_of_8_and_16_bits_is_read(tmp_path):
    Image.fromarray(np.array([[0, 128, 255]], dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.array([[0, 128 * 257, 65535]], dtype=np.uint16)).save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert colours(read_image(tmp_path / name)) == [(v, v, v) for v in (0, 128, 255)]


def test_a_photo_is_turned_upright(tmp_path):
    image = Image.new("RGB", (2, 1))
    image.putdata([RED, BLUE])
    exif = Image.Exif()
    exif[274] = 6  # orientation: to be turned by 90 degrees, clockwise
    image.save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png")
    assert upright.size == (1, 2)
    assert colours(upright) == [RED, BLUE]


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", None])
def test_a_file_that_is_no_image_is_refused_and_named(tmp_path, content):
    file = tmp_path / "photo.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"photo\.png: no image could be read \(\w+: .*give a PNG"):
        image_pixels([file], 8)


def test_an_image_that_ends_early_is_refused_and_named(tmp_path):
    file = tmp_path / "photo.jpg"
    picture(64, 64).save(file)
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"photo\.jpg: no image could be read"):
        read_image(file)
