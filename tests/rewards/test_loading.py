"""Tests how rewards are found by their names in the config, and the errors about wrong names."""

import pytest

from rewards.base import RewardInput
from rewards.loading import load_reward, reward_names

INPUTS = [RewardInput(prompt="p", completion="abc")]

FILE = """
from rewards.base import Reward

def length(*, completions):
    return [len(c) for c in completions]

class Native(Reward):
    name, range, unit = "native", (0.0, 9.0), "characters"
    def __init__(self, factor=1):
        self.factor = factor
    def __call__(self, inputs):
        return [self.factor * len(i.completion) for i in inputs]

class NotCallable:
    pass

class Unstated(Reward):
    name = "unstated"

class Raises:
    def __init__(self):
        raise KeyError("weights")

class Callable:
    def __init__(self, factor=1):
        self.factor = factor
    def __call__(self, *, completions):
        return [self.factor * len(c) for c in completions]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return str(path)


@pytest.mark.parametrize("name", reward_names())
def test_every_file_of_the_package_has_a_reward_that_states_range_and_unit(name):
    module = __import__(f"rewards.{name}", fromlist=["_"])
    classes = [m for m in vars(module).values() if isinstance(m, type) and m.__module__ == module.__name__]
    reward = next(c for c in classes if hasattr(c, "check_label"))
    assert reward.range[0] < reward.range[1]
    assert reward.unit


def test_functions_and_classes_of_a_file(file):
    assert load_reward(f"{file}:length")(INPUTS) == [3]
    assert load_reward(f"{file}:Native", {"factor": 2})(INPUTS) == [6]
    assert load_reward(f"{file}:Callable", {"factor": 3})(INPUTS) == [9]
    assert load_reward(f"{file}:Native").name == "native"
    assert load_reward(f"{file}:Callable").name == "Callable"


def test_a_class_of_an_installed_module():
    assert load_reward("rewards.cot_format:CotFormat").name == "cot_format"


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("other", {}, r"no 'other'; choose one of \['.*cot_format', .*or give path/to/file.py:function"),
        ("my.py", {}, "'my.py' names a file; name one of its functions or classes, too: my.py:FUNCTION"),
        ("nowhere.py:f", {}, "'nowhere.py:f': no such file"),
        ("FILE:other", {}, r"has no function or class 'other'; it has \['Callable', 'Native', 'NotCallable'"),
        ("FILE:NotCallable", {}, "the class has no __call__; it takes a batch and returns a list"),
        ("FILE:Unstated", {}, "states no range and no unit"),
        ("FILE:Raises", {}, "could not be built: KeyError: 'weights'"),
        ("FILE:Native", {"facto": 1}, r"options of .*: got an unexpected .* 'facto'; it takes \(factor=1\)"),
        ("no_such_package:F", {}, "does not import: ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(file, spec, options, message):
    with pytest.raises(ValueError, match=message):
        load_reward(spec.replace("FILE", file), options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import nonsense_that_is_not_there", "ModuleNotFoundError: No module named 'nonsense"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_file_that_does_not_import_is_named(tmp_path, content, message):
    path = tmp_path / "broken.py"
    path.write_text(content + "\n")
    with pytest.raises(ValueError, match=rf"broken.py does not import: {message}"):
        load_reward(f"{path}:f")
