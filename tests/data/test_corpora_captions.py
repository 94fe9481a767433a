"""Tests the cleaning of captions."""

import json
import pickle

import numpy as np
import pytest
import torch

from unigrpo.config.corpora import CaptionConfig, SourceConfig
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.corpora.captions import clean_caption, first_sentence, open_store, read_questions


def clean(caption, task="t2i", seed=0, **options):
    return clean_caption(caption, CaptionConfig(**options), task, "a.tar:0", torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog. A cat.", "A dog."),
        ("A 3.5 m wall. Behind it a dog.", "A 3.5 m wall."),
        ("Look!\nA dog.", "Look!"),
        ("no end", "no end"),
    ],
)
def test_a_sentence_ends_at_a_mark_before_white_space(text, expected):
    assert first_sentence(text) == expected


def test_the_first_sentence_is_taken_with_its_probability():
    found = [clean("A dog. A cat.", seed=seed, first_sentence_probability=0.5) for seed in range(200)]
    assert set(found) == {"A dog.", "A dog. A cat."}
    assert abs(found.count("A dog.") - 100) < 36  # five standard deviations


def test_only_captions_of_text_to_image_are_shortened():
    options = {"first_sentence_probability": 1.0, "drop_phrases": ("The image features ",)}
    text = "The image features a dog. It barks."
    assert clean(text, **options) == "a dog."
    assert clean(text, task="mmu", **options) == text


def test_tags_of_persons_become_words():
    assert clean("<person> runs") in {"a person runs", "someone runs", "somebody runs"}
    assert clean("<person> <person> and <person> run") == "people run"
    assert clean("<person>, <person> run") == "people run"


@pytest.mark.parametrize("caption", ["", "  ", None, [], 7, ["", ""]])
def test_an_empty_caption_is_a_broken_sample(caption):
    with pytest.raises(BadSample, match=r"a\.tar:0: no caption"):
        clean(caption)


def test_a_caption_of_which_nothing_is_left_is_a_broken_sample():
    with pytest.raises(BadSample, match="no caption"):
        clean("An image of ", drop_phrases=("An image of",))


@pytest.mark.parametrize("content", ["", "[1, 2]", "[]", '{"a": 1}', '[" "]'])
def test_questions_must_be_a_list_of_texts(tmp_path, content):
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(ValueError, match=r"q\.json"):
        read_questions(str(tmp_path / "q.json"))


def test_a_missing_file_of_captions_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"captions\.json: could not be read \(FileNotFoundError: No such file"):
        open_store(CaptionConfig(store="json", path=str(tmp_path / "captions.json")))


def test_captions_in_an_index_folder_are_shared_files_with_the_captions_of_the_json_file(tmp_path, monkeypatch):
    captions: dict[str, object] = {f"key {i}": f"caption {i} ü" for i in range(50)}
    captions |= {"several": ["a", "b"], "": "empty key", "number": 7, "nothing": None}
    path, folder = tmp_path / "captions.json", tmp_path / "index"
    path.write_text(json.dumps(captions))
    config = CaptionConfig(store="json", path=str(path))
    first = open_store(config, str(folder))
    assert first is not None
    monkeypatch.setattr("unigrpo.data.corpora.captions.parse_json", lambda *_: pytest.fail("the file is read again"))
    again = pickle.loads(pickle.dumps(open_store(config, str(folder))))
    assert len(pickle.dumps(again)) < 500, "no caption is sent to a loader process"
    for store in (first, again):
        assert {key: store.find("", key) for key in captions} == captions
        assert store.find("", "no such key") is None
        assert isinstance(store.captions._captions, np.memmap)  # type: ignore[attr-defined]
    path.write_text(json.dumps({"key 1": "changed"}))
    monkeypatch.undo()
    changed = open_store(config, str(folder))
    assert changed is not None
    assert changed.find("", "key 1") == "changed"


@pytest.mark.parametrize("content", ["{}", '{"a": "b"}'])
def test_few_captions_are_also_found(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    store = open_store(CaptionConfig(store="json", path=str(tmp_path / "c.json")), str(tmp_path))
    assert store is not None
    assert (store.find("", "a"), store.find("", "z")) == (json.loads(content).get("a"), None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "webdataset", "task": "lm", "path": "a"}, "kind webdataset has no task 'lm'"),
        ({"kind": "image_folder", "task": "t2i", "path": "a"}, "image_folder needs captions.store"),
        ({"kind": "text", "path": ""}, "path of a source of kind text is empty"),
        ({"kind": "text", "path": "a", "weight": 0.0}, "weight is 0.0"),
        ({"kind": "text", "path": "a", "max_bad_fraction": 1.0}, "max_bad_fraction is 1.0"),
        pytest.param({"kind": "texts", "path": "a"}, "kind: no 'texts'", marks=pytest.mark.wrong_types),
    ],
)
def test_a_contradictory_source_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SourceConfig(**options)


def test_a_caption_file_per_image_needs_a_placeholder_for_the_key():
    with pytest.raises(ValueError, match=r"must contain \{key\}"):
        CaptionConfig(store="beside", path="captions/all.txt")
