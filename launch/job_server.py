"""Talks to Ray's job server for the launch scripts: asks whether one answers, and hands it jobs.

Ray's own ``ray job submit`` joins the arguments of a job by the quoting rules of Windows, and the job server gives the
joined line to a shell, which then interprets ``$``, ``;``, ``*`` and ``[...]``. This script quotes the arguments for
that shell, so that the job gets every argument as it was typed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
import shlex
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from job_package import project_environment

ANSWER_SECONDS = 3.0
"""How long a job server may take to say its version."""
POLL_SECONDS = 1.0
"""Time between two questions whether a job has ended whose output is shown no more."""
AGENT_SECONDS = 180.0
"""How long a server that answers may take until it can take a job, which is a minute later on a busy machine."""
NO_AGENT = (
    "No available agent to submit job",
    "Cannot connect to host",
    "Server disconnected",
    "Connection reset by peer",
)
"""What Ray's job server says until then: it knows no agent, or one that does not listen or is not ready to answer."""
TAKEN = "already exists"
"""What it says of a job that it has; that is this one if an agent took it and its answer was lost."""
START_SECONDS = 900.0
"""How long Ray may take to start a job."""
REMINDER_SECONDS = 60.0
"""Time between two lines about a job that has not started."""
DEFAULT_SERVER = "http://127.0.0.1:8265"
"""Where Ray puts a job server unless it is told otherwise."""
RAYS_OWN_LINE = re.compile(r"^.* -- Runtime env is setting up\.\n", re.MULTILINE)
"""Line with which Ray's job server begins the output of every job."""
TEMPORARY = "/unigrpo-ray-"
"""Part of the folder of a head that a launch script starts, and that ends with its command."""


def main() -> int:
    """Runs the command. Returns 0 if a server answers or accepted the job (or the job succeeded), otherwise 1.

    ``find`` returns 0 with a URL on standard output, 1 if there is no server of this user, and 2 if there are several.
    """
    parser = argparse.ArgumentParser(description="Talks to Ray's job server for the launch scripts.")
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("answers", help="check that a job server answers, and print the reason if it does not")
    asked.add_argument("address", help="URL of the job server")
    commands.add_parser("find", help="print the URL of the only job server that this user has started on this machine")
    job = commands.add_parser("submit", help="submit a job, and show its output until it ends")
    job.add_argument("--address", required=True, help="URL of the job server")
    job.add_argument("--job_id", required=True, help="name of the job")
    job.add_argument("--ship_project", action="store_true", help="run the job in a copy of this folder on the cluster")
    job.add_argument("--num_gpus", type=float, default=0.0, help="number of GPUs of the command itself")
    job.add_argument("--no_wait", action="store_true", help="exit as soon as the job is submitted")
    job.add_argument("argv", nargs="+", help="the command of the job, after --")
    parsed = parser.parse_args()
    if parsed.command == "answers":
        problem = why_silent(parsed.address)
        if problem:
            sys.stdout.write(f"{problem}\n")
        return 1 if problem else 0
    if parsed.command == "find":
        return find()
    try:
        return submit(parsed)
    except (OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def find() -> int:
    """Prints the URL of the job server of this user, and names on standard error a server of another user.

    A server of another user is never used unasked: it would run this user's code, and its owner may end it.

    Returns:
        0, or 1 if there is none, or 2 if there are several.
    """
    own = [url for url in own_servers() if not why_silent(url)]
    if len(own) > 1:
        shown = ", ".join(own)
        sys.stderr.write(
            f"error: you have started several Ray job servers here ({shown}); choose one: RAY_ADDRESS={own[0]}\n"
        )
        return 2
    if own:
        sys.stdout.write(f"{own[0]}\n")
        return 0
    if not why_silent(DEFAULT_SERVER):
        sys.stderr.write(
            f"{DEFAULT_SERVER} is a Ray job server that you have not started here; it is not used unless RAY_ADDRESS "
            "names it\n"
        )
    return 1


def own_servers() -> list[str]:
    """The URLs of the job servers whose dashboard runs here as this user, without those of launch scripts."""
    found: list[str] = []
    for process in psutil.process_iter(["cmdline", "uids"]):
        words = process.info["cmdline"] or []
        if process.info["uids"] is None or process.info["uids"].real != os.getuid():
            continue
        if not any(word.endswith("ray/dashboard/dashboard.py") for word in words):
            continue
        options = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
        host, port = options.get("host", ""), options.get("port", "")
        if port and TEMPORARY not in options.get("temp-dir", "") + options.get("log-dir", ""):
            host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
            found.append(f"http://{host}:{port}")
    return sorted(set(found))


def why_silent(address: str) -> str:
    """The reason why no job server of Ray answers at a URL; empty if one does."""
    try:
        request = urllib.request.Request(f"{address}/api/version", headers=_token_header())
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return "" if "ray_version" in json.load(answer) else "the server there is not Ray"
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return (
                f"it answers {error.code}: it requires a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to "
                "the file of the cluster's token"
            )
        return f"it answers {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _token_header() -> dict[str, str]:
    """The header with the token that Ray would send: its variable, else its file, else its default file."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token:
        path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
        token = Path(path).read_text().strip()
    return {"Authorization": f"Bearer {token}"}


def submit(parsed: argparse.Namespace) -> int:
    """Submits a job. Returns 0, or 1 for a job that failed.

    Raises:
        ValueError: The job server did not accept the job.
        RuntimeError: It ended before the job did.
    """
    # These take seconds, which asking must not take.
    import aiohttp  # noqa: PLC0415
    import requests  # noqa: PLC0415
    from ray.job_submission import JobStatus, JobSubmissionClient  # noqa: PLC0415

    client = JobSubmissionClient(parsed.address)
    quiet_ray()
    try:
        with tempfile.TemporaryDirectory(prefix="unigrpo-job-") as package:
            environment = project_environment(Path.cwd(), Path(package)) if parsed.ship_project else {}
            _hand_over(  # uploads the package
                client,
                entrypoint=shlex.join(parsed.argv),
                submission_id=parsed.job_id,
                runtime_env=environment,
                entrypoint_num_gpus=parsed.num_gpus,
            )
        if parsed.no_wait:
            return 0
        sys.stdout.write(f"job {parsed.job_id}\n")
        _await_start(client, parsed.job_id)
        asyncio.run(_show_output(client, parsed.job_id))
        job = _ended_job(client, parsed.job_id)
    except BrokenPipeError:  # of what reads the output
        raise
    except (ConnectionError, requests.ConnectionError, RuntimeError, aiohttp.ClientError) as error:
        raise RuntimeError(
            f"job {parsed.job_id} at {parsed.address} did not start, or was lost before its end "
            f"({_in_one_line(error)}). When the server works again, the same command resumes from the last "
            "checkpoint, if there is one"
        ) from error
    words = {JobStatus.SUCCEEDED: "succeeded", JobStatus.FAILED: "failed", JobStatus.STOPPED: "was stopped"}
    sys.stdout.write(f"\nJob '{parsed.job_id}' {words[job.status]}\n")
    if job.status == JobStatus.FAILED and job.message:
        # Behind "last available logs" stands what has been shown already; further lines name Ray's own actor.
        reason = job.message.partition(", last available logs")[0].strip()
        sys.stdout.write(reason.partition("\n")[0] + "\n")
    return 0 if job.status in (JobStatus.SUCCEEDED, JobStatus.STOPPED) else 1


def _hand_over(client: Any, **job: Any) -> None:
    """Submits a job, and waits for a part of the server that starts after it answers: the agent that takes jobs.

    Raises:
        RuntimeError: The server did not accept the job.
    """
    ending = time.monotonic() + AGENT_SECONDS
    is_repeated = False
    while True:
        try:
            client.submit_job(**job)
            return
        except RuntimeError as error:
            if is_repeated and TAKEN in str(error):
                return
            if not any(reason in str(error) for reason in NO_AGENT) or time.monotonic() >= ending:
                raise
        is_repeated = True
        time.sleep(POLL_SECONDS)


def _in_one_line(error: Exception) -> str:
    """The text of an error; where that is one of the server with a traceback, the traceback's last line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line.strip(".")), "")


def quiet_ray() -> None:
    """Leaves out Ray's lines about the package that it makes and uploads, on which nobody can act.

    The client gives the logger of Ray's package a level when it is made, and some of its modules set one of their own.
    """
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _await_start(client: Any, job_id: str) -> None:
    """Waits until Ray has started a job. The log says now and then that it has not, since Ray says nothing.

    Raises:
        RuntimeError: It has not started within :data:`START_SECONDS`; it is stopped.
    """
    started = time.monotonic()
    reminder = REMINDER_SECONDS
    while client.get_job_info(job_id).status == "PENDING":
        seconds = time.monotonic() - started
        if seconds >= START_SECONDS:
            client.stop_job(job_id)
            raise RuntimeError(f"Ray started no process for it within {seconds:.0f} s")
        if seconds >= reminder:
            sys.stderr.write(f"job {job_id} has not started after {seconds:.0f} s; still waiting for Ray\n")
            reminder += REMINDER_SECONDS
        time.sleep(POLL_SECONDS)


def _ended_job(client: Any, job_id: str) -> Any:
    """Waits until a job has ended. Its output may end earlier: Ray stops showing it at a line of more than 4 MiB."""
    job = client.get_job_info(job_id)
    if not job.status.is_terminal():
        sys.stdout.write(f"\nRay shows no more of the output of job {job_id}, which still runs; waiting for its end\n")
        sys.stdout.flush()
    while not job.status.is_terminal():
        time.sleep(POLL_SECONDS)
        job = client.get_job_info(job_id)
    return job


async def _show_output(client: Any, job_id: str) -> None:
    async for lines in client.tail_job_logs(job_id):
        sys.stdout.write(RAYS_OWN_LINE.sub("", lines))
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
