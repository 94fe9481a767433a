"""Tests which images of prompts can be read, and which of them are decoded again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from unigrpo.checks import images as checks
from unigrpo.checks.images import known_images_file, unreadable_images
from unigrpo.data.images import read_image


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Returns a list that records the decoded images. The cache is empty and stores any number of images."""
    found: list[str] = []
    monkeypatch.setattr(checks, "read_image", lambda image: found.append(image) or read_image(image))
    monkeypatch.setattr(checks, "known_images_file", lambda: tmp_path / "known.txt")
    monkeypatch.setattr(checks, "MIN_KEPT", 1)
    return found


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Returns the paths of two readable images, a broken one and a missing one."""
    for name in "ab":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    return [str(tmp_path / f"{name}.png") for name in ("a", "b", "broken", "missing")]


def test_images_that_were_read_and_have_not_changed_are_not_decoded_again(
    decoded: list[str], images: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    good, changed, broken, missing = images
    first = unreadable_images(images)
    assert sorted(decoded) == sorted(images)
    assert list(first) == [broken, missing]
    decoded.clear()
    with caplog.at_level("INFO"):
        assert unreadable_images(images) == first
    assert sorted(decoded) == [broken, missing], "images that could not be read are tried again"
    assert "2 of 4 images of prompts were read before" in caplog.text

    decoded.clear()
    before = os.stat(changed)
    Path(changed).write_bytes(b"x" * before.st_size)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert list(unreadable_images([good, changed])) == [changed]
    assert decoded == [changed]


def test_other_limits_decode_all_images_again(
    decoded: list[str], images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable_images(images[:2])
    monkeypatch.setattr(checks, "RULES", "a later version of Pillow")
    decoded.clear()
    assert unreadable_images(images[:2]) == {}
    assert sorted(decoded) == sorted(images[:2])


def test_an_image_in_a_table_is_identified_by_its_bytes(
    decoded: list[str], images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"embedded:1": Path(images[0]).read_bytes(), "embedded:2": b"no image"}
    monkeypatch.setattr(checks, "embedded_bytes", content.__getitem__)
    monkeypatch.setattr("unigrpo.data.images.embedded_bytes", content.__getitem__)
    assert list(unreadable_images(["embedded:1", "embedded:2"])) == ["embedded:2"]
    decoded.clear()
    assert unreadable_images(["embedded:1"]) == {}
    assert decoded == []
    content["embedded:1"] = b"another image"
    assert list(unreadable_images(["embedded:1"])) == ["embedded:1"]


def test_few_images_write_no_cache(
    decoded: list[str], images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MIN_KEPT", 3)
    unreadable_images(images[:2])
    assert not (tmp_path / "known.txt").exists()


def test_a_cache_that_cannot_be_used_is_named(
    decoded: list[str], images: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "known.txt").mkdir()
    assert unreadable_images(images[:2]) == {}
    assert "known.txt cannot be read, so that all images of prompts are decoded again" in caplog.text
    assert "known.txt cannot be written, so that the next start decodes the images again" in caplog.text


def test_the_time_that_decoding_takes_is_announced(
    decoded: list[str], images: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checks, "NOTABLE_SECONDS", 0.0)
    with caplog.at_level("INFO"):
        unreadable_images(images)
    assert "decoding 4 images of prompts takes about 0 s, once" in caplog.text


def test_the_cache_is_in_the_folder_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path))
    assert known_images_file().is_relative_to(tmp_path)


def test_a_cache_that_cannot_be_written_is_no_error(
    decoded: list[str],
    images: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "file" / "assets"))
    monkeypatch.setattr(checks, "known_images_file", known_images_file)
    unreadable_images(images)
    assert len(decoded) == len(images)
    assert "cannot be read, so that all images of prompts are decoded again" in caplog.text
    assert "cannot be written, so that the next start decodes the images again" in caplog.text
