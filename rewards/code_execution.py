"""Reward for programs that pass their tests, which a sandbox service runs in another process or on another machine."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from rewards.base import Reward, RewardInput, check_text_prompt
from rewards.http_client import Client, without_secrets
from rewards.reply import after_thoughts

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
WAITING_SECONDS = 30.0
"""Time of a request besides the time limit of its program and of those that the service may run before it."""


@dataclass(frozen=True)
class CodeTest:
    """One test of a program: text to read and to print, or code to run after it."""

    stdin: str = ""
    """Standard input of the program."""
    stdout: str = ""
    """Expected standard output of the program."""
    check: str = ""
    """Code that follows the program and raises an error if the program is wrong. With it, `stdout` is unused."""


@dataclass(frozen=True)
class Outcome:
    """The result of a program, as reported by the service."""

    is_finished: bool
    """Whether the program ended within its time and without an error."""
    is_late: bool
    """Whether the program exceeded its time limit."""
    stdout: str
    """Standard output of the program."""


class CodeExecution(Reward):
    """1 if the program of a response passes all tests of its prompt, else 0. No program runs in this process.

    The program is the last block in three backquotes after the thoughts; a response without one gets 0. The tests are
    inputs and outputs in the gold answer or in columns, ``{"inputs": ["1 2"], "outputs": ["3"]}``; or assertions in
    the column `test_list` (MBPP); or a function ``check`` in the column `test` for the function that `entry_point`
    names (HumanEval). A sample has no reward if the service could not run one of its tests.
    """

    name = "code_execution"
    range = (0.0, 1.0)
    unit = "fraction of responses that pass all tests"

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080/run_code",
        run_timeout: float = 5.0,
        max_tests: int = 16,
        partial: bool = False,
        concurrency: int = 8,
        attempts: int = 3,
    ) -> None:
        """Checks the settings and opens no connection.

        Args:
            url: Address of a service with the protocol of SandboxFusion: ``{"code", "language", "stdin",
                "run_timeout"}`` is answered by ``{"status", "run_result": {"status", "return_code", "stdout"}}``.
                Several addresses, joined by commas, are used in turn.
            run_timeout: Time limit of one test in seconds.
            max_tests: Largest number of tests of one sample. The first ones are used.
            partial: Whether the reward is the fraction of the tests that pass. After a test that exceeds its time
                limit, the other tests of the sample are not run and count as failed.
            concurrency: Largest number of requests at a time.
            attempts: Number of attempts at each request.

        Raises:
            ValueError: A setting is out of range, or `url` is no HTTP address.
        """
        if not 0 < run_timeout <= 3600 or max_tests < 1:
            raise ValueError(
                f"code_execution: run_timeout is {run_timeout} and max_tests is {max_tests}; expected above 0"
            )
        urls = [one.strip() for one in url.split(",")]
        self._client = Client(
            urls,
            concurrency=concurrency,
            attempts=attempts,
            timeout_seconds=concurrency * run_timeout + WAITING_SECONDS,
        )
        self._urls = ",".join(map(without_secrets, urls))
        self._run_timeout, self._max_tests, self._partial = run_timeout, max_tests, partial

    def load(self) -> None:
        """Runs one program in the service.

        Raises:
            ValueError: The service does not answer as expected.
        """
        (answer,) = self._client.post_all([self._body("print(6 * 7)", "")])
        outcome = outcome_of(answer)
        if outcome is None or not outcome.is_finished or outcome.stdout.strip() != "42":
            raise ValueError(f"code_execution: {self._urls} did not run `print(6 * 7)`: {_excerpt(answer)}")

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        """Runs the first test of every sample, then the second test of every undecided sample, and so on.

        Without `partial`, a sample is decided when a test fails, so an endless program costs `run_timeout` only once.
        """
        programs = [program_of(item.completion) for item in inputs]
        tests = [
            code_tests(item)[: self._max_tests] if code else [] for item, code in zip(inputs, programs, strict=True)
        ]
        num_passed: list[float | None] = [0.0] * len(inputs)
        open_samples = [number for number, own in enumerate(tests) if own]
        position = 0
        while open_samples:
            results = self._run([(programs[n], tests[n][position]) for n in open_samples])
            position += 1
            still_open: list[int] = []
            for number, (is_passed, is_late) in zip(open_samples, results, strict=True):
                count = num_passed[number]
                num_passed[number] = None if count is None or is_passed is None else count + is_passed
                is_decided = is_passed is None or is_late or not (is_passed or self._partial)
                if not is_decided and position < len(tests[number]):
                    still_open.append(number)
            open_samples = still_open
        return [self._value(count, len(own)) for count, own in zip(num_passed, tests, strict=True)]

    def logs(self) -> dict[str, float]:
        """Returns the rates of failed requests and of retries since the last call."""
        return self._client.rates()

    def check_prompt(self, prompt: RewardInput) -> None:
        """Raises ValueError if a prompt has no tests, or if its samples have no text."""
        check_text_prompt(prompt)
        code_tests(prompt)

    def _run(self, tests: Sequence[tuple[str, CodeTest]]) -> list[tuple[bool | None, bool]]:
        """Runs a test of each of several programs.

        Returns:
            For each, whether it passed (None if the service could not run it) and whether it took too long.
        """
        ends = [secrets.token_hex(16) for _ in tests]
        bodies = [
            self._body(with_check(code, test.check, end) if test.check else code, test.stdin)
            for (code, test), end in zip(tests, ends, strict=True)
        ]
        results: list[tuple[bool | None, bool]] = []
        for (_, test), end, answer in zip(tests, ends, self._client.post_all(bodies), strict=True):
            outcome = outcome_of(answer)
            results.append((None, False) if outcome is None else (is_right(outcome, test, end), outcome.is_late))
        return results

    def _body(self, code: str, stdin: str) -> dict[str, Any]:
        return {"code": code, "language": "python", "stdin": stdin, "run_timeout": self._run_timeout}

    def _value(self, num_passed: float | None, num_tests: int) -> float | None:
        if num_passed is None or num_tests == 0:
            return None if num_passed is None else 0.0
        return num_passed / num_tests if self._partial else float(num_passed == num_tests)


def program_of(completion: str) -> str:
    """Returns the last block of code after the thoughts; empty if there is none.

    >>> program_of("<think>Easy.</think>So:\\n```python\\nprint(1)\\n```")
    'print(1)\\n'
    """
    blocks = _BLOCK.findall(after_thoughts(completion))
    return blocks[-1] if blocks else ""


def code_tests(item: RewardInput) -> list[CodeTest]:
    """Returns the tests of a prompt.

    Raises:
        ValueError: The prompt has no tests in one of the known forms.
    """
    columns = item.metadata
    if _is_list(columns.get("test_list")) and columns["test_list"]:
        setup = [str(columns.get("test_setup_code") or ""), *map(str, columns.get("test_imports") or ())]
        return [CodeTest(check="\n".join([*setup, str(one)])) for one in columns["test_list"]]
    if isinstance(columns.get("test"), str) and columns.get("entry_point"):
        return [CodeTest(check=f"{columns['test']}\ncheck({columns['entry_point']})")]
    given: Any = columns if "inputs" in columns else _parsed(item.label)
    inputs, outputs = (given.get(name) if isinstance(given, Mapping) else None for name in ("inputs", "outputs"))
    if _is_list(inputs) and _is_list(outputs) and len(inputs) == len(outputs) > 0:
        return [CodeTest(stdin=str(one), stdout=str(other)) for one, other in zip(inputs, outputs, strict=True)]
    raise ValueError(
        'expected tests: a gold answer like {"inputs": ["1 2"], "outputs": ["3"]}, columns `inputs` and `outputs` '
        "of the same length, a column `test_list`, or columns `test` and `entry_point`; found the gold answer "
        f"{_excerpt(item.label)} and the columns {sorted(columns)}"
    )


def with_check(code: str, check: str, end: str) -> str:
    """Returns a program that runs a check and then prints a line that the model cannot know.

    Without this line, a program that ends before its check, for example by ``sys.exit(0)``, would pass.
    """
    return f'{code}\n\n{check}\n\nprint("\\n{end}")\n'


def outcome_of(answer: Any) -> Outcome | None:
    """Returns the outcome in the answer of a service; None if the service could not run the program."""
    result = answer.get("run_result") if isinstance(answer, Mapping) else None
    if not isinstance(result, Mapping) or answer.get("status") == "SandboxError":
        return None
    status, stdout = result.get("status"), result.get("stdout")
    return Outcome(
        is_finished=status == "Finished" and result.get("return_code") == 0,
        is_late=status == "TimeLimitExceeded",
        stdout=stdout if isinstance(stdout, str) else "",
    )


def is_right(outcome: Outcome, test: CodeTest, end: str) -> bool:
    """Returns whether a program passed a test.

    Args:
        outcome: How the program ended.
        test: The test. Spaces at the ends of lines and empty lines at the end of an output are ignored.
        end: Line that a program prints after its check, see :func:`with_check`.
    """
    if not outcome.is_finished:
        return False
    printed = _lines(outcome.stdout)
    return printed[-1] == end if test.check else printed == _lines(test.stdout)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        return None


def _excerpt(value: Any) -> str:
    return f"{value!r:.300}"
