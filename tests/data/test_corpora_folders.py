"""Tests folders of images as sources."""

import pytest
import torch
from PIL import Image

from unigrpo.config.corpora import CaptionConfig, SourceConfig
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.corpora.sources import ImageFolder


@pytest.fixture
def folder(tmp_path):
    for name in ("n01/b.png", "n01/a.JPEG", "n02/c.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(path)
    (tmp_path / "images" / "README").write_text("about")
    return tmp_path / "images"


def source(folder, **captions):
    captions = {"store": "class_name", **captions}
    return ImageFolder(
        SourceConfig(kind="image_folder", task="t2i", path=str(folder), captions=CaptionConfig(**captions))
    )


def texts(found):
    return [found.read(index, torch.Generator()).text for index in range(len(found))]


def test_captions_are_the_names_of_folders(folder):
    assert texts(source(folder)) == ["n01", "n01", "n02"]


@pytest.mark.parametrize("lines", ["0: tench, Tinca tinca\n1: goldfish\n", "n01: tench, Tinca tinca\nn02:goldfish"])
def test_a_mapping_names_the_classes(folder, tmp_path, lines):
    (tmp_path / "names.txt").write_text(lines)
    found = source(folder, path=str(tmp_path / "names.txt"))
    assert texts(found) == ["tench, Tinca tinca", "tench, Tinca tinca", "goldfish"]


def test_a_class_without_a_name_is_an_error_at_the_start(folder, tmp_path):
    (tmp_path / "names.txt").write_text("0: tench\n")
    with pytest.raises(ValueError, match=r"names\.txt: no name for 1 folders .* 'n02'"):
        source(folder, path=str(tmp_path / "names.txt"))


def test_an_invalid_line_of_a_mapping_is_named(folder, tmp_path):
    (tmp_path / "names.txt").write_text("0: tench\n1 goldfish\n")
    with pytest.raises(ValueError, match=r"names\.txt:2: expected"):
        source(folder, path=str(tmp_path / "names.txt"))


def test_linked_folders_are_followed(folder, tmp_path):
    (folder / "n02").rename(tmp_path / "elsewhere")
    (folder / "n02").symlink_to(tmp_path / "elsewhere")
    assert texts(source(folder)) == ["n01", "n01", "n02"]


def test_hidden_folders_and_files_are_no_classes(folder):
    hidden = folder / ".ipynb_checkpoints"
    hidden.mkdir()
    for name in (hidden / "a-checkpoint.png", folder / "n01" / "._a.png"):
        name.write_bytes(b"")
    assert texts(source(folder)) == ["n01", "n01", "n02"]


def test_captions_may_be_in_files_next_to_the_images(folder):
    (folder / "n02" / "c.txt").write_text("a caption")
    found = source(folder, store="beside", path=f"{folder}/{{key}}.txt")
    assert found.read(2, torch.Generator()).text == "a caption"
    with pytest.raises(BadSample, match=r"n01/b\.png: no caption"):
        found.read(1, torch.Generator())


def test_a_corrupt_image_names_its_file(folder):
    (folder / "n01" / "b.png").write_bytes(b"broken")
    with pytest.raises(BadSample, match=r"n01/b\.png: no image could be read"):
        source(folder).read(1, torch.Generator())


def test_a_folder_that_is_missing_or_without_images_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        source(tmp_path / "images")
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="none of 0 files ends in"):
        source(tmp_path / "images")


def test_an_image_outside_of_a_class_is_an_error(folder):
    (folder / "z.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"outside of a class's folder, such as z\.png"):
        source(folder)
