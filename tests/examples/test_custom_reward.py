"""Tests that every example of a custom reward works as its page says."""

import threading
from pathlib import Path

import pytest
import yaml
from PIL import Image

from rewards.base import RewardInput
from rewards.loading import load_reward
from rewards.remote import Remote
from rewards.try_reward import main
from unigrpo.config import RunConfig
from unigrpo.config.parsing import config_from_args, parse, run_parser

FOLDER = Path(__file__).parents[2] / "examples" / "custom_reward"
INPUTS = [
    RewardInput(prompt="3+4=", completion="is 7", label="7", image=Image.new("RGB", (4, 4), "white")),
    RewardInput(prompt="2+2=", completion="five", label="4"),
]


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("keyword.py:short_answers", [0.96, 0.96]),
        ("keyword.py:even_length", [1.0, 1.0]),
        ("keyword.py:brightness", [1.0, None]),
        ("openrlhf_style.py:reward_func", [1.0, 0.0]),
        ("trl_style.py:accuracy_reward", [1.0, 0.0]),
        ("verl_style.py:compute_score", [1.0, 0.0]),
        ("native_class.py:ContainsWord", [1.0, 0.0]),
    ],
)
def test_an_example_gives_its_rewards(spec, values):
    assert load_reward(f"{FOLDER}/{spec}")(INPUTS) == pytest.approx(values)


def test_the_server_answers_the_remote_reward():
    module = load_reward(f"{FOLDER}/http_server.py:rewards", style="unigrpo")._function.__globals__  # type: ignore[attr-defined]
    server = module["serve"](0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    remote = Remote(f"http://127.0.0.1:{server.server_address[1]}")
    remote.load()
    assert remote(INPUTS) == [0.25, 0.0]
    server.shutdown()


def test_a_reward_is_tried_without_training(capsys):
    samples = str(FOLDER / "samples.jsonl")
    assert (
        main(["--reward", f"{FOLDER}/keyword.py:short_answers", "--input", samples, "--options", '{"penalty": 0.1}'])
        == 0
    )
    assert "short_answers: 2 samples, 0 missing" in capsys.readouterr().out
    assert main(["--reward", f"{FOLDER}/keyword.py:brightness", "--input", samples]) == 1
    assert main(["--reward", "math_answer", "--input", samples]) == 0
    assert main(["--reward", "nothing", "--input", samples]) == 2
    assert "choose one of" in capsys.readouterr().err


TRIED = """
def nan(*, completions):
    return [float("nan"), 1.0]

def divides(*, completions):
    return [1 / 0 for _ in completions]

def hangs(*, completions):
    import time
    time.sleep(3600)

def asks_for_a_column(completions, chosen):
    return []
"""


@pytest.mark.parametrize(
    ("function", "status", "output"),
    [
        ("nan", 1, "nan: 2 samples, 1 missing (returned nan), "),
        ("divides", 2, "error: reward 'divides' raised ZeroDivisionError: division by zero (FILE:6)\n"),
        ("hangs", 2, "error: reward 'FILE:hangs' did not answer within 8 s\n"),
        ("asks_for_a_column", 2, "error: samples.jsonl, sample 1: the reward function needs a column 'chosen'; "),
        ("other", 2, "error: reward.terms: FILE has no function or class 'other'; it has ['asks_for_a_column', "),
    ],
)
def test_a_reward_that_fails_is_tried_in_one_line_and_in_time(tmp_path, capfd, function, status, output):
    file = tmp_path / "mine.py"
    file.write_text(TRIED)
    seconds = "8" if function == "hangs" else "60"  # a process needs seconds to start on a busy machine
    arguments = ["--reward", f"{file}:{function}", "--input", str(FOLDER / "samples.jsonl")]
    assert main([*arguments, "--timeout_seconds", seconds]) == status
    said = capfd.readouterr()
    assert output.replace("FILE", str(file)) in said.out + said.err
    assert "Traceback" not in said.err
    assert said.err.count("\n") == (status == 2)


def test_the_terms_of_the_page_parse(tmp_path):
    page = (FOLDER / "README.md").read_text()
    text = page.split("```yaml\n")[1].split("```")[0]
    file = tmp_path / "terms.yaml"
    file.write_text(text)
    term = config_from_args(parse(run_parser("x", "x", RunConfig), ["--config", str(file)]), RunConfig).reward.terms[0]
    assert term.options == yaml.safe_load(text)["reward"]["terms"][0]["options"] == {"penalty": 0.02}
