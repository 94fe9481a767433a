"""Compares preprocessing with the numbers of the original, and tests unusual and invalid image files."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from unigrpo.data.images import MAX_PIXELS, MAX_RATIO, Fit, image_pixels, read_image, square_pixels

FITS: tuple[Fit, ...] = ("crop", "stretch", "pad")
EXIF_PHOTO = Path(__file__).parent.parent / "fixtures" / "images" / "exif_fraction_of_minus_one.jpg"
RED, BLUE = (255, 0, 0), (0, 0, 255)


def plain_image(width=12, height=8):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def colours(image):
    return [tuple(pixel) for pixel in np.array(image).reshape(-1, 3).tolist()]


@pytest.mark.parametrize("case", ["image_preprocess_0", "image_preprocess_1"])
def test_crop_and_stretch_are_those_of_the_original(golden, case):
    params, arrays = golden(case)
    image = Image.fromarray(arrays["in.image_uint8_hwc"].numpy())
    assert image.size == (params["width"], params["height"])
    crop, stretch = (square_pixels(image, params["resolution"], fit) for fit in FITS[:2])
    one_grey_level = 2 / 255 + 1e-6  # versions of Pillow round a few pixels of a resize differently
    torch.testing.assert_close(crop, arrays["out.resize_crop"], rtol=0, atol=one_grey_level)
    torch.testing.assert_close(stretch, arrays["out.squash"], rtol=0, atol=one_grey_level)


def test_pad_puts_white_on_both_sides_of_the_short_one():
    image = plain_image(12, 8)
    pixels = square_pixels(image, 12, "pad")
    assert (pixels[:, :2] == 1).all()
    assert (pixels[:, -2:] == 1).all()
    inside = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 * 2 - 1
    torch.testing.assert_close(pixels[:, 2:-2], inside, rtol=0, atol=1e-6)


def test_a_square_of_the_right_size_is_not_changed_by_any_fit():
    image = plain_image(8, 8)
    for fit in FITS:
        values = (square_pixels(image, 8, fit) + 1) / 2 * 255
        assert np.array_equal(values.round().byte().permute(1, 2, 0).numpy(), np.array(image))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 40), (40, 1), (9, 7)])
def test_any_shape_becomes_the_requested_square(width, height):
    for fit in FITS:
        pixels = square_pixels(plain_image(width, height), 8, fit)
        assert pixels.shape == (3, 8, 8)
        assert -1 <= pixels.min() <= pixels.max() <= 1


def test_files_become_a_batch(tmp_path):
    plain_image(12, 8).save(tmp_path / "a.png")
    plain_image(5, 9).convert("L").save(tmp_path / "b.webp", lossless=True)
    pixels = image_pixels([tmp_path / "a.png", str(tmp_path / "b.webp")], 8, "stretch")
    assert pixels.shape == (2, 3, 8, 8)
    assert torch.equal(pixels[0], square_pixels(plain_image(12, 8), 8, "stretch"))
    assert torch.equal(pixels[1, 0], pixels[1, 2]), "grey"


@pytest.mark.wrong_types
def test_another_fit_is_refused():
    with pytest.raises(ValueError, match=r"fit: no 'squash'; choose one of \['crop', 'pad', 'stretch'\]"):
        square_pixels(plain_image(), 8, "squash")  # type: ignore[arg-type]


# Tests of kinds of files.


def test_transparent_pixels_are_white_whatever_their_colour(tmp_path):
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
    exif[274] = 6  # the orientation is a rotation by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png")
    assert upright.size == (1, 2)
    assert colours(upright) == [RED, BLUE]


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", None])
def test_a_file_that_is_no_image_is_refused_and_named(tmp_path, content):
    file = tmp_path / "photo.png"
    if content is not None:
        file.write_bytes(content)
    reason = r"\(\w+: .*give a PNG" if content is not None else "since there is no such file"
    with pytest.raises(ValueError, match=rf"photo\.png: no image could be read,? {reason}"):
        image_pixels([file], 8, "crop")


def test_an_image_that_ends_early_is_refused_and_named(tmp_path):
    file = tmp_path / "photo.jpg"
    plain_image(64, 64).save(file)
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"photo\.jpg: no image could be read"):
        read_image(file)


# Tests of unusual files and of memory.


def save_exif(path, orientation):
    """Saves a photo of a red and a blue pixel with EXIF data."""
    image = Image.new("RGB", (2, 1))
    image.putdata([RED, BLUE])
    exif = Image.Exif()
    exif[274] = orientation
    image.save(path, exif=exif)


@pytest.mark.parametrize(
    ("orientation", "rows"),
    [
        (1, [[RED, BLUE]]), (2, [[BLUE, RED]]), (3, [[BLUE, RED]]), (4, [[RED, BLUE]]),
        (5, [[RED], [BLUE]]), (6, [[RED], [BLUE]]), (7, [[BLUE], [RED]]), (8, [[BLUE], [RED]]), (9, [[RED, BLUE]]),
    ],
)  # fmt: skip
def test_every_orientation_is_turned_upright(tmp_path, orientation, rows):
    save_exif(tmp_path / "a.png", orientation)
    upright = np.array(read_image(tmp_path / "a.png"))
    assert upright.tolist() == [[list(pixel) for pixel in row] for row in rows]


def test_exif_that_cannot_be_written_again_does_not_break_a_photo():
    """Some cameras write a resolution of (-1, 0), which is NaN and an error in Pillow's writer of EXIF."""
    with Image.open(EXIF_PHOTO) as opened, pytest.raises(struct.error):
        ImageOps.exif_transpose(opened)
    assert read_image(EXIF_PHOTO).size == (64, 96)


def test_floats_from_0_to_1_are_scaled_and_others_refused(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert colours(read_image(tmp_path / "a.tif")) == [(v, v, v) for v in (0, 128, 255)]
    for values in ([0.0, 200.0], [-1.0, 0.0], [float("nan"), 0.0]):
        Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "b.tif")
        with pytest.raises(ValueError, match=r"b\.tif: .*floating-point values from .* expected 0 to 1"):
            read_image(tmp_path / "b.tif")


def test_integers_beyond_16_bits_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="integer values from 0 to 70000, expected 0 to 65535"):
        read_image(tmp_path / "a.tif")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_file_starts_another_program(tmp_path, monkeypatch):
    """Pillow reads EPS with Ghostscript, whatever the name of the file is."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "cat.png").write_bytes(EPS)
    with pytest.raises(ValueError, match=r"cat\.png: no image could be read"):
        read_image(tmp_path / "cat.png")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("ending", ["avif", "jp2", "dds", "png", "webp", "gif", "tif"])
def test_any_failure_of_a_decoder_is_a_broken_image(tmp_path, ending):
    buffer = io.BytesIO()
    plain_image(32, 24).save(buffer, {"jp2": "JPEG2000", "tif": "TIFF"}.get(ending, ending.upper()))
    content = buffer.getvalue()
    generator = np.random.default_rng(0)
    for _ in range(40):
        broken = bytearray(content[: int(generator.integers(8, len(content)))])
        for place in generator.integers(4, len(broken), 3):
            broken[place] = int(generator.integers(256))
        (tmp_path / "a").write_bytes(broken)
        try:
            read_image(tmp_path / "a")
        except ValueError as error:
            assert "no image could be read" in str(error)


@pytest.mark.parametrize("ending", ["avif", "jp2", "webp", "gif", "bmp", "ppm"])
def test_avif_and_jpeg_2000_are_read(tmp_path, ending):
    Image.new("RGB", (8, 8), RED).save(tmp_path / f"a.{ending}")
    red, green, blue = colours(read_image(tmp_path / f"a.{ending}"))[0]
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (10_001, 1)])
def test_an_image_that_is_too_large_or_too_long_is_refused_with_the_limits(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(f"P6\n{width} {height}\n255\n".encode())
    limits = rf"{width} x {height} pixels, more than {MAX_PIXELS} in all or {MAX_RATIO} times"
    with pytest.raises(ValueError, match=limits):
        read_image(tmp_path / "a.png")


def whole_crop(image, resolution):
    """Returns the resized centre of the whole image, as the original does."""
    short = min(image.size)
    width, height = (int(resolution * side / short) for side in image.size)
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    whole = image.resize((width, height), Image.Resampling.BICUBIC)
    return whole.crop((left, top, left + resolution, top + resolution))


def whole_pad(image, resolution):
    """Returns the whole image on a white square, resized."""
    side = max(image.size)
    page = Image.new("RGB", (side, side), "white")
    page.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return page.resize((resolution, resolution), Image.Resampling.BICUBIC)


def test_only_what_is_needed_is_computed_and_the_result_is_that_of_the_whole():
    generator = np.random.default_rng(0)
    for _ in range(60):
        width, height, resolution = (int(side) for side in generator.integers(1, 90, 3))
        image = Image.radial_gradient("L").resize((width, height)).convert("RGB")
        for fit, reference in (("crop", whole_crop), ("pad", whole_pad)):
            expected = np.array(reference(image, resolution)).astype(int)
            found = (square_pixels(image, resolution, fit) + 1) / 2 * 255  # type: ignore[arg-type]
            difference = np.abs(found.permute(1, 2, 0).numpy() - expected).max()
            assert difference < 2.01, (fit, width, height, resolution)  # Pillow may take the axes in another order


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(20_000, 10), (10, 20_000)])
def test_memory_is_bounded_by_image_and_result(monkeypatch, fit, size):
    """A strip of 200,000 pixels takes 1.2 GB as a square, or if the whole strip is resized."""
    made: list[int] = []

    def counting(function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            made.append(result.width * result.height)
            return result

        return call

    image = Image.new("RGB", size, RED)
    monkeypatch.setattr(Image.Image, "resize", counting(Image.Image.resize))
    monkeypatch.setattr(Image, "new", counting(Image.new))
    square_pixels(image, 64, fit)
    assert max(made) < 1_000_000
