"""Tests the reward for programs with a simulated service."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rewards.base import RewardInput
from rewards.code_execution import CodeExecution, CodeTest, code_tests, program_of

PAIRS = {"inputs": ["1", "2", "3"], "outputs": ["a", "b", "c"]}


def sample(code: str, **metadata: Any) -> RewardInput:
    return RewardInput(prompt="?", completion=f"```python\n{code}\n```", metadata=metadata)


def finished(stdout: str = "", return_code: int = 0, status: str = "Finished") -> dict[str, Any]:
    return {"status": "Success", "run_result": {"status": status, "return_code": return_code, "stdout": stdout}}


LATE = finished(status="TimeLimitExceeded")


class Service:
    """A service that answers each request by a function of its body."""

    def __init__(self, answer: Callable[[dict[str, Any]], Any]) -> None:
        self.asked: list[list[dict[str, Any]]] = []
        self._answer = answer

    def post_all(self, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        self.asked.append(list(bodies))
        return [self._answer(body) for body in bodies]


def reward_of(answer: Callable[[dict[str, Any]], Any], **options: Any) -> tuple[CodeExecution, Service]:
    reward, service = CodeExecution(**options), Service(answer)
    reward._client = service  # type: ignore[assignment]
    return reward, service


def answers(outputs: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    """Returns a function that answers by the standard input of a program."""
    return lambda body: outputs[body["stdin"]]


@pytest.mark.parametrize(
    ("second", "value", "fraction", "num_requests", "num_of_fractions"),
    [
        (finished("b \n\n"), 1.0, 1.0, 3, 3),
        (finished("b", return_code=1), 0.0, 2 / 3, 2, 3),
        (finished("bb"), 0.0, 2 / 3, 2, 3),
        (LATE, 0.0, 1 / 3, 2, 2),
        (None, None, None, 2, 2),
        ({"status": "SandboxError", "run_result": {}}, None, None, 2, 2),
        ({"status": "Success", "run_result": {"status": "Finished", "return_code": 0, "stdout": 7}}, 0.0, 2 / 3, 2, 3),
    ],
)
def test_outputs_are_compared_until_the_reward_is_known(
    second: Any, value: float | None, fraction: float | None, num_requests: int, num_of_fractions: int
) -> None:
    service = answers({"1": finished("a\n"), "2": second, "3": finished("c")})
    reward, asked = reward_of(service)
    assert reward([sample("x", **PAIRS)]) == [value]
    assert len(asked.asked) == num_requests
    reward, asked = reward_of(service, partial=True)
    assert reward([sample("x", **PAIRS)]) == [pytest.approx(fraction)]
    assert len(asked.asked) == num_of_fractions


def test_samples_are_run_together_and_a_response_without_a_program_gets_0() -> None:
    reward, service = reward_of(answers({"1": finished("a"), "2": finished("b"), "3": finished("c")}), max_tests=2)
    no_program = RewardInput(prompt="?", completion="print(1)", metadata=PAIRS)
    one_test = sample("y", inputs=["1"], outputs=["z"])
    assert reward([sample("x", **PAIRS), no_program, one_test]) == [1.0, 0.0, 0.0]
    assert [[(body["code"], body["stdin"]) for body in bodies] for bodies in service.asked] == [
        [("x\n", "1"), ("y\n", "1")],
        [("x\n", "2")],
    ]


def test_a_program_that_ends_before_its_check_fails() -> None:
    def run(body: dict[str, Any]) -> dict[str, Any]:
        printed: list[str] = []

        def note(text: str) -> None:
            printed.append(text)

        try:
            exec(body["code"], {"print": note})  # the programs are those of this test, not of a model
        except SystemExit:
            pass
        except AssertionError:
            return finished(return_code=1)
        return finished("\n".join(printed))

    reward, _ = reward_of(run)
    assertions = {"test_list": ["assert f(1) == 2", "assert f(2) == 4"]}
    programs = [
        "def f(x): return 2 * x",
        "def f(x): return 2",
        "import sys\nsys.exit(0)",
        "print('fine')\nraise SystemExit",
    ]
    assert reward([sample(code, **assertions) for code in programs]) == [1.0, 0.0, 0.0, 0.0]


def test_tests_are_read_from_the_gold_answer_or_from_columns() -> None:
    pairs = {"inputs": ["1", 2], "outputs": ["3", 4]}
    expected = [CodeTest("1", "3"), CodeTest("2", "4")]
    assert code_tests(RewardInput(prompt="?", completion="", label=json.dumps(pairs))) == expected
    assert code_tests(sample("", **pairs)) == expected
    mbpp = sample("", test_list=["assert a", "assert b"], test_imports=["import math"], test_setup_code="c = 1")
    assert [test.check for test in code_tests(mbpp)] == [
        "c = 1\nimport math\nassert a",
        "c = 1\nimport math\nassert b",
    ]
    human_eval = sample("", test="def check(f):\n    assert f(1)", entry_point="g")
    assert code_tests(human_eval) == [CodeTest(check="def check(f):\n    assert f(1)\ncheck(g)")]


@pytest.mark.parametrize(
    "label", [None, "7", "[" * 10**5, '{"inputs": ["1"], "outputs": []}', '{"inputs": "1", "outputs": "2"}']
)
def test_a_prompt_without_tests_is_refused(label: str | None) -> None:
    with pytest.raises(ValueError, match="expected tests: a gold answer like"):
        CodeExecution().check_prompt(RewardInput(prompt="?", completion="", label=label))


def test_the_last_block_after_the_thoughts_is_the_program() -> None:
    assert program_of("<think>```\na\n```</think>```py\nb\n``` then\n```python\nc\n```") == "c\n"
    assert program_of("```python\nunfinished") == ""
    assert program_of("<think>```\na\n```") == ""


def test_a_service_that_runs_no_program_is_found_before_the_run() -> None:
    for answer in (None, finished("41"), {"status": "SandboxError", "message": "no namespaces", "run_result": None}):
        with pytest.raises(ValueError, match=r"http://host/run_code did not run `print\(6 \* 7\)`: "):
            reward_of(lambda _, answer=answer: answer, url="http://me:secret@host/run_code")[0].load()
    reward_of(lambda _: finished("42\n"))[0].load()


@pytest.mark.parametrize("seconds", [0.0, float("nan")])
def test_options_out_of_range_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="expected above 0"):
        CodeExecution(run_timeout=seconds)
    with pytest.raises(ValueError, match="max_tests is 0; expected above 0"):
        CodeExecution(max_tests=0)
