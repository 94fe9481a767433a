"""Compares samples of tars with those of webdataset's reader, and tests broken samples."""

import io
import tarfile
from typing import Any

import pytest
import torch
from PIL import Image
from webdataset.compat import WebDataset

from unigrpo.cli.main import main
from unigrpo.config.corpora import CaptionConfig, SourceConfig
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.corpora.sources import Webdataset
from unigrpo.data.corpora.tars import TarSamples

BLOCK = 512


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, members, form=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def draws():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def tar(tmp_path):
    """Returns a tar of four samples, each with an image of 1000 bytes and a caption."""
    members = {}
    for number in range(4):
        members[f"part/{number:04}.jpg"] = bytes([number]) * 1000
        members[f"part/{number:04}.txt"] = f"caption {number}".encode()
    write_tar(tmp_path / "a.tar", members)
    return tmp_path / "a.tar"


def reasons(samples):
    found = []
    for index in range(len(samples)):
        try:
            found.append(sorted(samples.read(index).members))
        except BadSample as error:
            found.append(error.reason)
    return found


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_those_that_webdataset_reads(tmp_path, form):
    folder = "n" * (60 if form == tarfile.USTAR_FORMAT else 180)  # the longer name needs an additional header
    members = {f"{folder}/{n}.{e}": f"{n}{e}".encode() * 300 for n in range(5) for e in ("JPG", "txt", "meta.json")}
    write_tar(tmp_path / "a.tar", members, form)
    samples = TarSamples([tmp_path / "a.tar"])
    own = [(found.key, found.members) for found in map(samples.read, reversed(range(len(samples))))]
    theirs = WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)
    expected = [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in theirs]
    assert own[::-1] == expected


def test_the_samples_of_several_tars_are_concatenated(tmp_path, tar):
    write_tar(tmp_path / "b.tar", {"x.txt": b"b"})
    samples = TarSamples([tar, tmp_path / "b.tar"])
    assert [samples.read(index).key for index in range(5)] == [*(f"part/000{n}" for n in range(4)), "x"]


def test_a_truncated_tar_has_its_whole_samples_and_one_broken(tar):
    whole = tar.read_bytes()
    start = whole.index(b"\x02" * 1000)
    tar.write_bytes(whole[: start + 500])
    assert reasons(TarSamples([tar])) == [["jpg", "txt"], ["jpg", "txt"], "truncated tar"]


def test_a_tar_cut_between_members_counts_as_broken(tar):
    whole = tar.read_bytes()
    cut = whole.index(b"part/0002.jpg")
    tar.write_bytes(whole[: cut // BLOCK * BLOCK])
    assert reasons(TarSamples([tar])) == [["jpg", "txt"], ["jpg", "txt"], "truncated tar"]


def test_a_tar_broken_in_the_middle_counts_as_broken(tar, caplog):
    content = bytearray(tar.read_bytes())
    place = content.index(b"part/0001.txt") // BLOCK * BLOCK
    content[place : place + BLOCK] = b"x" * BLOCK
    tar.write_bytes(bytes(content))
    assert reasons(TarSamples([tar])) == [["jpg", "txt"], ["jpg"], "truncated tar"]
    assert f"{tar}: broken from byte {place}" in caplog.text


def test_samples_after_the_end_marker_of_a_tar_count_as_broken(tar):
    content = tar.read_bytes()
    tar.write_bytes(content * 2)
    assert reasons(TarSamples([tar])) == [*[["jpg", "txt"]] * 4, "truncated tar"]


def test_other_members_are_logged_and_a_repeated_key_gives_two_samples(tmp_path, caplog):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("0.jpg", "0.txt", "README", "1.jpg", "1.txt", "1.JPG", "1.txt"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    assert reasons(TarSamples([tmp_path / "a.tar"])) == [["jpg", "txt"]] * 3
    assert "1 members are no part of a sample, such as README" in caplog.text


def test_an_index_is_kept_until_the_tar_changes(tmp_path, tar, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("headers were read again")

    first = TarSamples([tar], str(tmp_path / "index"))
    with monkeypatch.context() as patch:
        patch.setattr("unigrpo.data.corpora.tars._spans", refuse)
        again = TarSamples([tar], str(tmp_path / "index"))
    assert [again.read(index) for index in range(4)] == [first.read(index) for index in range(4)]
    write_tar(tar, {"x.txt": b"b"})
    assert [TarSamples([tar], str(tmp_path / "index")).read(0).key] == ["x"]
    assert {path.suffix for path in (tmp_path / "index").iterdir()} == {".npy"}


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, b"\x1f\x8b" + bytes(1000)])
def test_a_file_that_is_no_tar_is_named(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tar: no tar could be read"):
        TarSamples([tmp_path / "a.tar"])


def test_a_tar_without_samples_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar", {"README": b"no ending"})
    with pytest.raises(ValueError, match=r"a\.tar: no sample in 1 tars"):
        TarSamples([tmp_path / "a.tar"])


def source(tar, task: Any = "t2i", **captions):
    return Webdataset(SourceConfig(kind="webdataset", task=task, path=str(tar), captions=CaptionConfig(**captions)))


def test_captions_are_in_the_text_or_in_the_json(tmp_path):
    write_tar(tmp_path / "a.tar", {"0.png": png("red"), "0.txt": b"red\n", "0.json": b'{"prompt": "a red square"}'})
    assert source(tmp_path / "a.tar").read(0, draws()).text == "red"
    sample = source(tmp_path / "a.tar", member="json.prompt").read(0, draws())
    assert (sample.text, sample.key) == ("a red square", f"{tmp_path}/a.tar:0")
    assert sample.image is not None and sample.image.getpixel((0, 0)) == (255, 0, 0)


def test_captions_may_be_in_a_file_next_to_the_tar(tmp_path):
    write_tar(tmp_path / "shard7.tar", {"0.png": png("red"), "1.png": png("blue")})
    (tmp_path / "captions" / "shard7").mkdir(parents=True)
    (tmp_path / "captions" / "shard7" / "0.caption").write_text("red\nsecond line")
    found = source(
        tmp_path / "shard7.tar", store="beside", path=f"{tmp_path}/captions/{{shard}}/{{key}}.caption",
        first_line_only=True,
    )  # fmt: skip
    assert found.read(0, draws()).text == "red"
    with pytest.raises(BadSample, match=r"shard7\.tar:1: no caption"):
        found.read(1, draws())


def test_one_of_the_captions_in_a_json_file_is_chosen(tmp_path):
    write_tar(tmp_path / "a.tar", {"x.png": png("red"), "y.png": png("blue")})
    (tmp_path / "captions.json").write_text('{"x": ["one", "two"]}')
    found = source(tmp_path / "a.tar", store="json", path=str(tmp_path / "captions.json"))
    texts = {found.read(0, torch.Generator().manual_seed(seed)).text for seed in range(20)}
    assert texts == {"one", "two"}
    with pytest.raises(BadSample, match=r"a\.tar:y: no caption"):
        found.read(1, draws())


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"0.png": b"no image", "0.txt": b"a"}, "broken image"),
        ({"0.png": png("red")[:-30], "0.txt": b"a"}, "broken image"),
        ({"0.txt": b"a"}, "missing image"),
        ({"0.png": png("red")}, "missing caption"),
        ({"0.png": png("red"), "0.txt": b"  \n"}, "missing caption"),
    ],
)
def test_a_broken_sample_says_why(tmp_path, members, reason):
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(BadSample, match=r"a\.tar:0") as caught:
        source(tmp_path / "a.tar").read(0, draws())
    assert caught.value.reason == reason


def test_a_byte_order_mark_is_removed_from_a_caption_and_half_a_surrogate_pair_is_refused(tmp_path):
    members = {"0.png": png("red"), "0.txt": "\ufeffa red square".encode(), "0.json": rb'{"prompt": "cut \ud83d"}'}
    write_tar(tmp_path / "a.tar", members)
    assert source(tmp_path / "a.tar").read(0, draws()).text == "a red square"
    with pytest.raises(BadSample, match=r"a\.tar:0\.json: half of a surrogate pair"):
        source(tmp_path / "a.tar", member="json.prompt").read(0, draws())


def test_members_that_macos_and_webdataset_add_to_a_tar_are_no_samples(tmp_path):
    members = {
        "__MACOSX/._0.png": b"Mac", "._0.png": b"Mac", "0.png": png("red"), "._0.txt": b"Mac", "0.txt": b"a",
        ".DS_Store": b"x", "a/.DS_Store": b"x", "a/1.png": png("blue"), "README": b"about", "a/1.txt": b"b",
        "__worker__": b"x",
    }  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    found = source(tmp_path / "a.tar")
    assert [found.read(index, draws()).text for index in range(len(found))] == ["a", "b"]
    theirs = [s["__key__"] for s in WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)]
    assert [key for key in theirs if not key.endswith("/")] == ["0", "a/1"]


def test_members_of_a_sample_that_are_not_adjacent_are_an_error_that_says_what_to_do(tmp_path):
    write_tar(tmp_path / "a.tar", {"0.png": png("red"), "1.png": png("red"), "0.txt": b"a", "1.txt": b"b"})
    found = source(tmp_path / "a.tar")
    for index, missing in enumerate(("no member txt", "no member txt", "no image", "no image")):
        with pytest.raises(BadSample, match=rf"{missing}.* must be neighbours in the tar \(tar --sort=name\)"):
            found.read(index, draws())


@pytest.mark.parametrize(("ending", "form"), [("avif", "AVIF"), ("jp2", "JPEG2000")])
def test_newer_formats_of_images_are_found(tmp_path, ending, form):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, form)
    write_tar(tmp_path / "a.tar", {f"0.{ending}": buffer.getvalue(), "0.txt": b"a"})
    image = source(tmp_path / "a.tar").read(0, draws()).image
    assert image is not None and image.size == (8, 8)


def test_invalid_json_is_named(tmp_path):
    write_tar(tmp_path / "a.tar", {"0.png": png("red"), "0.json": b"{"})
    with pytest.raises(BadSample, match=r"a\.tar:0\.json") as caught:
        source(tmp_path / "a.tar", member="json.prompt").read(0, draws())
    assert caught.value.reason == "no JSON"


def test_image_understanding_uses_one_of_the_questions(tmp_path):
    write_tar(tmp_path / "a.tar", {"0.png": png("red"), "0.txt": b"a red square"})
    (tmp_path / "questions.json").write_text('["What is it?", "Describe it."]')
    found = source(tmp_path / "a.tar", task="mmu", questions=str(tmp_path / "questions.json"))
    chats = {found.read(0, torch.Generator().manual_seed(seed)).messages for seed in range(20)}
    assert chats == {
        (("user", question), ("assistant", "a red square")) for question in ("What is it?", "Describe it.")
    }


def test_many_processes_store_the_index_that_a_source_reads(tmp_path, capsys, monkeypatch):
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", {f"{i}.txt": b"a" for i in range(number + 1)})
    folder, pattern = tmp_path / "index", str(tmp_path / "{0,1,2}.tar")
    assert main(["index-tars", pattern, "--index_folder", str(folder), "--workers", "2"]) == 0
    assert capsys.readouterr().out == "3 of 3 tars, 6 samples\n"
    assert len(list(folder.iterdir())) == 3
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("a header is read again"))
    paths = [tmp_path / f"{number}.tar" for number in range(3)]
    assert len(TarSamples(paths, str(folder))) == 6
    assert main(["index-tars", pattern, "--index_folder", str(folder), "--workers", "0"]) == 2
    assert "--workers is 0" in capsys.readouterr().err
