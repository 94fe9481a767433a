"""Tests which job server of this machine the launch scripts use by default."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import job_server
import pytest
from ray.job_submission import JobStatus

ME, OTHER = os.getuid(), os.getuid() + 1
DASHBOARD = "/x/site-packages/ray/dashboard/dashboard.py"


def process(*options: str, uid: int = ME, program: str = DASHBOARD) -> Any:
    return SimpleNamespace(info={"cmdline": ["python", "-u", program, *options], "uids": SimpleNamespace(real=uid)})


OWN = process("--host=127.0.0.1", "--port=8265", "--temp-dir=/tmp/ray")
FOREIGN = process("--host=127.0.0.1", "--port=8265", "--temp-dir=/tmp/ray", uid=OTHER)
SECOND = process("--host=0.0.0.0", "--port=8300", "--temp-dir=/tmp/second")
TEMPORARY = process("--host=127.0.0.1", "--port=20001", "--temp-dir=/tmp/unigrpo-ray-a1b2")
UNRELATED = process("--port=1", program="/x/dashboard.py")
ENDED = SimpleNamespace(info={"cmdline": None, "uids": None})


@pytest.mark.parametrize(
    ("processes", "answering", "status", "printed", "said"),
    [
        ([OWN, TEMPORARY, UNRELATED, ENDED], {"http://127.0.0.1:8265"}, 0, "http://127.0.0.1:8265\n", ""),
        ([SECOND], {"http://127.0.0.1:8300", "http://127.0.0.1:8265"}, 0, "http://127.0.0.1:8300\n", ""),
        ([OWN], set(), 1, "", ""),
        ([FOREIGN, TEMPORARY], {"http://127.0.0.1:8265"}, 1, "", "that you have not started here; it is not used"),
        ([], {"http://127.0.0.1:8265"}, 1, "", "that you have not started here; it is not used"),
        ([], set(), 1, "", ""),
        ([OWN, SECOND], {"http://127.0.0.1:8265", "http://127.0.0.1:8300"}, 2, "", "choose one: RAY_ADDRESS=http"),
    ],
)
def test_only_a_job_server_of_this_user_is_used(monkeypatch, capsys, processes, answering, status, printed, said):
    monkeypatch.setattr(job_server.psutil, "process_iter", lambda _: processes)
    monkeypatch.setattr(job_server, "why_silent", lambda url: "" if url in answering else "refused")
    assert job_server.find() == status
    output = capsys.readouterr()
    assert output.out == printed
    assert said in output.err
    assert bool(said) == bool(output.err)


class TailingClient:
    """Sends the output of a job in two parts, as Ray's job server does."""

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "2026-11-29 11:06:59,035\tINFO job_manager.py:587 -- Runtime env is setting up.\n"
        yield f"Running entrypoint for job {job_id}: python\nstep 1\n"


def test_the_output_of_a_job_is_shown_without_messages_of_ray(capsys):
    asyncio.run(job_server._show_output(TailingClient(), "one"))
    assert capsys.readouterr().out == "Running entrypoint for job one: python\nstep 1\n"


def test_ray_prints_no_message_about_the_package_of_a_job(tmp_path, caplog, monkeypatch):
    from ray._private.runtime_env.packaging import create_package  # noqa: PLC0415  # loads Ray

    monkeypatch.setattr(logging.getLogger("ray"), "propagate", True)  # so that pytest captures the messages
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "a.txt").write_text("text")
    for is_quiet in (False, True):
        caplog.clear()
        with caplog.at_level("INFO", "ray._private.runtime_env.packaging"):
            if is_quiet:
                job_server.quiet_ray()
            create_package(str(tmp_path / "job"), tmp_path / f"{is_quiet}.zip", include_gitignore=False)
        assert ("Creating a file package" in caplog.text) != is_quiet


class JobThatGoesOn:
    """A job whose output ends before the job."""

    def __init__(self) -> None:
        self.has_ended = [False, False, True]

    def get_job_info(self, _: str) -> Any:
        ended = self.has_ended.pop(0)
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: ended))


def test_the_script_waits_for_a_job_whose_output_ends_first(monkeypatch, capsys):
    """Ray's job server stops sending output at a line of more than 4 MiB."""
    monkeypatch.setattr(job_server, "POLL_SECONDS", 0.0)
    client = JobThatGoesOn()
    assert job_server._ended_job(client, "one").status.is_terminal()
    assert client.has_ended == []
    assert capsys.readouterr().out.count("shows no more of the output of job one, which still runs") == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("WebSocket connection closed unexpectedly with close code 1006"),
        aiohttp.ServerDisconnectedError(),
        ConnectionRefusedError(111, "Connection refused"),
    ],
)
def test_a_server_that_ends_before_the_job_is_named(monkeypatch, capsys, error):
    class EndingClient:
        def __init__(self, address: str) -> None:
            self.address = address

        def submit_job(self, **_: Any) -> None:
            """Accepts any job."""

        def get_job_info(self, _: str) -> Any:
            return SimpleNamespace(status=JobStatus.RUNNING)

        async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
            yield f"job {job_id} begins\n"
            raise error

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", EndingClient)
    command = ["job_server.py", "submit", "--address", "http://127.0.0.1:1", "--job_id", "one", "--", "true"]
    monkeypatch.setattr("sys.argv", command)
    assert job_server.main() == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: job one at http://127.0.0.1:1 did not start, or was lost before its end (")
    assert "the same command resumes from the last checkpoint" in line


@pytest.mark.parametrize("starts", [True, False])
def test_a_job_that_does_not_start_is_reported_and_stopped(monkeypatch, capsys, starts):
    statuses = [JobStatus.PENDING] * 3 + [JobStatus.RUNNING if starts else JobStatus.PENDING] * 9
    stopped: list[str] = []
    client = SimpleNamespace(
        get_job_info=lambda _: SimpleNamespace(status=statuses.pop(0)), stop_job=lambda job_id: stopped.append(job_id)
    )
    monkeypatch.setattr(job_server.time, "monotonic", lambda: 60.0 * (12 - len(statuses)))
    monkeypatch.setattr(job_server, "START_SECONDS", 300.0)
    monkeypatch.setattr(job_server, "POLL_SECONDS", 0.0)
    if starts:
        job_server._await_start(client, "one")
    else:
        with pytest.raises(RuntimeError, match="Ray started no process for it within 300 s"):
            job_server._await_start(client, "one")
    assert stopped == ([] if starts else ["one"])
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [f"job one has not started after {s} s; still waiting for Ray" for s in (60, 120)]


REFUSED = "Traceback ...\naiohttp.client_exceptions.ClientConnectorError: Cannot connect to host 127.0.0.1:24284 ssl"


@pytest.mark.parametrize(
    ("refusals", "seconds", "is_taken"),
    [
        (["No available agent to submit job, please try again later."] * 2, 60.0, True),
        (["No available agent to submit job, please try again later."], 0.0, False),
        (
            [REFUSED, "Traceback ...\naiohttp.client_exceptions.ServerDisconnectedError: Server disconnected\n"],
            60.0,
            True,
        ),
        ([REFUSED], 0.0, False),
        (["Job with submission_id one already exists."], 60.0, False),
    ],
)
def test_a_job_waits_for_the_agent_that_takes_it(monkeypatch, refusals, seconds, is_taken):
    monkeypatch.setattr(job_server, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(job_server, "AGENT_SECONDS", seconds)
    left, taken = list(refusals), []

    def submit_job(**job: Any) -> None:
        if left:
            raise RuntimeError(f"Request failed with status code 500: {left.pop(0)}")
        taken.append(job)

    if is_taken:
        job_server._hand_over(SimpleNamespace(submit_job=submit_job), submission_id="one")
        assert taken == [{"submission_id": "one"}]
    else:
        with pytest.raises(RuntimeError, match=refusals[0]):
            job_server._hand_over(SimpleNamespace(submit_job=submit_job), submission_id="one")
        assert taken == []


def test_a_job_is_submitted_once_even_if_the_answer_was_lost(monkeypatch):
    monkeypatch.setattr(job_server, "POLL_SECONDS", 0.0)
    taken = set()

    def submit_job(submission_id: str) -> None:
        if submission_id in taken:
            raise RuntimeError(f"status code 400: Job with submission_id {submission_id} already exists.")
        taken.add(submission_id)
        raise RuntimeError("status code 500: ServerDisconnectedError: Server disconnected")

    job_server._hand_over(SimpleNamespace(submit_job=submit_job), submission_id="one")
    assert taken == {"one"}


def test_a_traceback_of_the_server_is_one_line():
    error = RuntimeError(f"Request failed with status code 500: {REFUSED}\n.")
    assert job_server._in_one_line(error) == REFUSED.splitlines()[1]
    assert job_server._in_one_line(RuntimeError("lost.")) == "lost."
