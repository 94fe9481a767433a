"""Compares CLIP score with the forward pass of transformers, and tests errors that CLIP does not report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertModel, CLIPImageProcessorPil, CLIPModel

from rewards.base import RewardInput
from rewards.clip_score import ClipScore
from rewards.imaging.clip import ClipEncoder
from rewards.loading import load_reward

PROMPTS = ["a dog", "two cats on a mat", "a dog", "rain"]


@pytest.fixture
def batch(sample: Callable[..., RewardInput]) -> list[RewardInput]:
    return [sample(i, prompt) for i, prompt in enumerate(PROMPTS)]


def test_the_cosine_is_that_of_the_whole_forward(clip_folder: Path, batch: list[RewardInput]) -> None:
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = AutoTokenizer.from_pretrained(clip_folder)(PROMPTS, padding=True, return_tensors="pt")
    processor = CLIPImageProcessorPil.from_pretrained(clip_folder)
    pixels = processor([item.image for item in batch if item.image], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = model(**tokens, pixel_values=pixels).logits_per_image.diag()
        expected = logits / model.logit_scale.exp()
    values = load_reward("clip_score", {"model": str(clip_folder), "scale": "cosine"})(batch)
    torch.testing.assert_close(torch.tensor(values), expected, atol=2e-6, rtol=0)
    assert expected.std() > 0.05  # otherwise the test would pass for any pairs


def test_percent_is_a_hundred_times_the_cosine_and_never_negative(clip_folder: Path, batch: list[RewardInput]) -> None:
    cosines = ClipScore(str(clip_folder), scale="cosine")(batch)
    percents = ClipScore(str(clip_folder))(batch)
    assert percents == pytest.approx([max(0.0, 100 * (cosine or 0.0)) for cosine in cosines], abs=1e-4)
    assert min(c for c in cosines if c is not None) < 0  # the test includes a negative cosine
    assert ClipScore(str(clip_folder), scale="cosine").range == (-1.0, 1.0)
    assert ClipScore(str(clip_folder)).range == (0.0, 100.0)


def test_an_image_of_r2i_is_compared_with_its_label(clip_folder: Path, batch: list[RewardInput]) -> None:
    asked = [replace(item, prompt="a riddle", label=item.prompt) for item in batch]
    score = ClipScore(str(clip_folder), scale="cosine")
    assert score([replace(item, task="r2i") for item in asked]) == score(batch)
    riddles = score([replace(item, label=None) for item in asked])
    assert score([replace(item, task="t2i") for item in asked]) == riddles != score(batch)
    assert score([replace(item, task="r2i", label=None) for item in asked]) == riddles


def test_each_distinct_prompt_is_encoded_once(
    clip_folder: Path, batch: list[RewardInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    original = CLIPModel.get_text_features

    def counting(self: CLIPModel, input_ids: torch.Tensor, **kwargs: Any) -> object:
        rows.append(len(input_ids))
        return original(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(CLIPModel, "get_text_features", counting)
    ClipScore(str(clip_folder))(batch * 2)
    assert sum(rows) == len(set(PROMPTS))


def test_batches_of_any_size_give_equal_results(clip_folder: Path, batch: list[RewardInput]) -> None:
    together = ClipScore(str(clip_folder), scale="cosine")(batch)
    for size in (1, 3):
        values = ClipScore(str(clip_folder), scale="cosine", batch_size=size)(batch)
        assert values == pytest.approx(together, abs=2e-6)
    assert ClipScore(str(clip_folder))([]) == []


def test_long_prompts_keep_their_end_token(clip_folder: Path) -> None:
    encoder = ClipEncoder(str(clip_folder))
    one, other = encoder.encode_texts(["dogs " * 90, "cats " * 90])
    assert (one - other).abs().max() > 0.05
    # Token ids that are cut by slicing have no end token, and all such texts have the same embedding.
    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), AutoTokenizer.from_pretrained(clip_folder)
    sliced = torch.tensor([tokenizer(text * 90, truncation=False).input_ids[:16] for text in ("dogs ", "cats ")])
    with torch.no_grad():
        features: Any = model.get_text_features(input_ids=sliced)
    assert torch.equal(features.pooler_output[0], features.pooler_output[1])


def test_the_wrong_end_id_of_the_published_configs_is_accepted(
    clip_folder: Path, tmp_path: Path, batch: list[RewardInput]
) -> None:
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert ClipScore(str(tmp_path))(batch) == ClipScore(str(clip_folder))(batch)


def test_sizes_written_as_older_processors_wrote_them_are_read(
    clip_folder: Path, tmp_path: Path, batch: list[RewardInput]
) -> None:
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    old = {"crop_size": 32, "size": 32, "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    assert ClipScore(str(tmp_path))(batch) == ClipScore(str(clip_folder))(batch)


def test_a_cut_prompt_is_logged_once(clip_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = ClipEncoder(str(clip_folder))
    encoder.encode_texts(["short"])
    assert not caplog.messages
    encoder.encode_texts(["dogs " * 90])
    encoder.encode_texts(["cats " * 90])
    assert len(caplog.messages) == 1 and "are cut to 16" in caplog.messages[0]


def test_weights_in_bfloat16_are_computed_in_float32(clip_folder: Path, tmp_path: Path) -> None:
    CLIPModel.from_pretrained(clip_folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((clip_folder / name).read_bytes())
    assert ClipEncoder(str(tmp_path)).encode_texts(["a dog"]).dtype == torch.float32
    assert {p.dtype for p in ClipEncoder(str(tmp_path))._model.parameters()} == {torch.float32}


def test_a_caption_is_compared_with_the_image_of_its_prompt(
    clip_folder: Path, sample: Callable[..., RewardInput]
) -> None:
    generated = sample(3, "a brown dog")
    assert generated.image is not None
    caption = RewardInput(
        prompt="Describe it.",
        completion="<think>What is it?</think>\na brown dog",
        task="mmu",
        input_images=(generated.image,),
    )
    reward = ClipScore(str(clip_folder), scale="cosine")
    assert reward([caption]) == pytest.approx(reward([generated]), abs=1e-6)
    silent = replace(caption, completion="<think>What is")
    assert reward([silent]) == pytest.approx(reward([replace(caption, completion="")]), abs=1e-6)
    with pytest.raises(ValueError, match="a caption needs one input image, found 0"):
        reward([replace(caption, input_images=())])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "has no generated image"),
        ({"image": Image.new("RGB", (0, 0))}, "is empty"),
        ({"image": Image.new("P", (8, 8))}, "has mode 'P'"),
        ({"prompt": ""}, "has no prompt"),
        ({"prompt": None}, "has no prompt"),
    ],
)
def test_samples_that_cannot_be_scored_are_named(
    clip_folder: Path, batch: list[RewardInput], change: dict[str, object], message: str
) -> None:
    batch[2] = replace(batch[2], **change)
    with pytest.raises(ValueError, match=f"sample 2 of the batch .*{message}"):
        ClipScore(str(clip_folder))(batch)


def test_wrong_options_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="no scale 'promille'"):
        ClipScore(scale="promille")
    with pytest.raises(ValueError, match="batch_size is 0"):
        ClipScore(batch_size=0)


def test_prompts_are_checked_before_training() -> None:
    reward = ClipScore()
    reward.check_prompt(RewardInput(prompt="a dog", completion="", task="t2i"))
    reward.check_prompt(RewardInput(prompt="Describe it.", completion="", task="mmu"))
    with pytest.raises(ValueError, match="generates no image"):
        reward.check_prompt(RewardInput(prompt="1+1=", completion="", task="text"))
    with pytest.raises(ValueError, match="prompt is empty"):
        reward.check_prompt(RewardInput(prompt=" ", completion="", task="t2i"))


@pytest.fixture
def damaged(clip_folder: Path, tmp_path: Path) -> Path:
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_missing_folder_is_an_error_at_loading(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        ClipScore(str(tmp_path / "nowhere")).load()
    with pytest.raises(ValueError, match="has no config"):
        ClipScore(str(tmp_path)).load()


def test_weights_that_are_not_finite_are_named(damaged: Path) -> None:
    weights = load_file(damaged / "model.safetensors")
    weights["visual_projection.weight"][3, 2] = float("nan")
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"'visual_projection.weight' are not finite"):
        ClipScore(str(damaged)).load()


def test_missing_weights_are_never_initialized_at_random(damaged: Path) -> None:
    weights = load_file(damaged / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"another architecture.*text_projection.weight"):
        ClipScore(str(damaged)).load()


def test_weights_of_other_sizes_are_refused(damaged: Path, make_clip: Callable[..., None], tmp_path: Path) -> None:
    make_clip(tmp_path / "other", hidden_size=24)
    (damaged / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"do not load into a CLIPModel|another architecture"):
        ClipScore(str(damaged)).load()


def test_a_model_that_is_no_clip_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a 'bert'; this reward needs a 'clip'"):
        ClipScore(str(tmp_path)).load()


def test_a_tokenizer_or_a_processor_of_another_model_is_refused(damaged: Path, bert_folder: Path) -> None:
    CLIPImageProcessorPil().save_pretrained(damaged)  # its images have 224 pixels
    with pytest.raises(ValueError, match="makes images of 224 x 224 pixels, the model takes 32 x 32"):
        ClipScore(str(damaged)).load()
    (damaged / "tokenizer.json").write_bytes((bert_folder / "tokenizer.json").read_bytes())
    (damaged / "tokenizer_config.json").write_bytes((bert_folder / "tokenizer_config.json").read_bytes())
    with pytest.raises(ValueError, match=r"does not belong to the model|do not belong together"):
        ClipScore(str(damaged)).load()
