"""Tests that the code of the README, the scripts of examples/library and the public names work."""

import dataclasses
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import unigrpo

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text().partition("## Use as a library")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Returns a folder with links to the files that the examples read, so that they write nothing into the project."""
    for name in ("examples", "launch"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_samples_an_image_in_five_lines(project):
    lines = [line for line in BLOCKS[0].splitlines() if line]
    assert len(lines) <= 5
    exec(BLOCKS[0], {})
    assert Image.open(project / "circle.png").size == (64, 64)


def test_a_policy_samples_by_default_as_the_run_that_exported_it(tmp_path):
    policy = unigrpo.Policy.from_pretrained(ROOT / "examples/tiny/mixcot", device="cpu")
    text = unigrpo.TextSamplingConfig(max_new_tokens=20, num_denoising_steps=10, block_length=10)
    (sample,) = policy.sample("70+5+4=")
    assert sample.token_ids.equal(policy.sample("70+5+4=", text=text)[0].token_ids)
    (short,) = policy.sample("70+5+4=", text=dataclasses.replace(text, max_new_tokens=10))
    assert len(short.token_ids) == len(sample.token_ids) - 10
    policy.save_pretrained(tmp_path)
    assert unigrpo.Policy.from_pretrained(tmp_path, device="cpu").sampling == policy.sampling
    (tmp_path / "sampling.json").unlink()
    assert unigrpo.Policy.from_pretrained(tmp_path, device="cpu").sampling is None


def test_the_readme_makes_a_step_in_twenty_lines_and_the_weights_change(project, capsys):
    assert len(BLOCKS[1].splitlines()) <= 20
    exec(BLOCKS[1], {})
    captured = capsys.readouterr()
    assert "model shards" not in captured.err  # the progress bar of transformers
    printed = re.fullmatch(r"reward (\S+) gradient norm (\S+)\n", captured.out)
    assert printed is not None
    reward, norm = printed.groups()
    assert 0 < float(reward) <= 1
    assert float(norm) > 0
    saved = unigrpo.Policy.from_pretrained(project / "out/policy", device="cpu")
    assert saved.sampling is not None
    assert saved.sampling.text["num_denoising_steps"] == 10
    trained = saved.model.state_dict()
    before = unigrpo.Policy.from_pretrained(ROOT / "examples/tiny/model", device="cpu").model.state_dict()
    assert trained.keys() == before.keys()
    assert any(not trained[name].equal(before[name]) for name in before)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("sample.py", ["answer: ", "step 9:", "image: out/sample.png"]),
        ("one_step.py", ["step 1: reward "]),
        ("step_by_hand.py", ["views of the first sample: Views", "mean reward: ", "gradient norm: "]),
    ],
)
def test_the_scripts_run_unchanged(project, capsys, monkeypatch, script, expected):
    monkeypatch.setattr(sys, "argv", [script])
    runpy.run_path(str(ROOT / "examples/library" / script), run_name="__main__")
    printed = capsys.readouterr().out
    assert [text for text in expected if text not in printed] == []


def test_every_public_name_can_be_imported_and_an_unknown_one_is_an_attribute_error():
    assert sorted(unigrpo.__all__) == unigrpo.__all__
    assert [name for name in unigrpo.__all__ if getattr(unigrpo, name) is None] == []
    assert set(unigrpo._MODULES) < set(unigrpo.__all__)
    with pytest.raises(AttributeError, match="sampler_of_nothing"):
        _ = unigrpo.sampler_of_nothing


@pytest.mark.slow
def test_auto_classes_load_our_models_after_an_import_that_loads_no_torch():
    code = """import sys
import unigrpo
assert not {"torch", "transformers"} & set(sys.modules), "import unigrpo is slow"
import transformers.modeling_utils  # imports the table of model types while it is imported itself
from transformers import AutoModel, AutoModelForCausalLM
print(type(AutoModelForCausalLM.from_pretrained("examples/tiny/model")).__name__)
print(type(AutoModel.from_pretrained("examples/tiny/mixcot/image_tokenizer")).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["MMadaModelLM", "ImageTokenizer"]
