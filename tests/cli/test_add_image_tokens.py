"""Tests the command that adds image tokens to a text-only checkpoint."""

import pytest
import torch
from transformers import AutoTokenizer

from unigrpo.cli import add_image_tokens as add_image_tokens
from unigrpo.models.checkpoint_io import load_policy
from unigrpo.models.vocabulary import Vocabulary


def test_the_new_checkpoint_has_image_codes_and_generates_the_same_text(tiny_model_folder, tmp_path, capsys):
    output = str(tmp_path / "grown")
    flags = ["--model", str(tiny_model_folder), "--output", output, "--codebook_size", "16", "--dtype", "float32"]
    assert add_image_tokens.run(flags) == 0
    tokenizer = AutoTokenizer.from_pretrained(output)
    old, new = (load_policy(folder, torch.float32, "sdpa") for folder in (str(tiny_model_folder), output))
    vocabulary = Vocabulary.from_pretrained_parts(new.config, tokenizer)
    assert vocabulary.image_slice == (len(tokenizer), len(tokenizer) + 16)
    assert f"tokens {len(tokenizer)} to {len(tokenizer) + 15}" in capsys.readouterr().out
    ids = torch.tensor([[3, 20, 30]])
    assert torch.equal(old(ids).logits, new(ids).logits[..., : len(tokenizer)])
    with pytest.raises(ValueError, match="exists already"):
        add_image_tokens.run(flags)
    with pytest.raises(ValueError, match="16 image codes already"):
        add_image_tokens.run(["--model", output, "--output", str(tmp_path / "again")])
