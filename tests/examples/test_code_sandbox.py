"""Tests that the example service runs programs within the limits of its page."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import load_script

from rewards.code_execution import CodeExecution
from rewards.try_reward import read_samples

FOLDER = Path(__file__).parents[2] / "examples" / "code_sandbox"


SERVER = load_script(FOLDER / "server.py")


@pytest.fixture(scope="module")
def sandbox() -> Any:
    """Starts a sandbox. If the tests run as root, its Python is one that the user nobody may start."""
    python = sys.executable if os.geteuid() else shutil.which("python3", path="/usr/bin:/bin")
    if python is None:
        pytest.skip("the tests run as root, and there is no Python in /usr/bin for the user nobody")
    made = SERVER.Sandbox(2, python)
    answer = made.run("print(1)", "", 20)
    if "does not allow the service" in answer["message"]:
        pytest.skip("the kernel does not allow namespaces here")
    assert answer["status"] == "Success", answer
    return made


@pytest.fixture(scope="module")
def url(sandbox: Any) -> Iterator[str]:
    server = SERVER.serve(0, sandbox)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/run_code"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_samples_of_the_page_are_rewarded_through_the_service(url: str) -> None:
    samples = read_samples(FOLDER / "samples.jsonl")
    reward = CodeExecution(url, run_timeout=20)
    reward.load()
    for sample in samples:
        reward.check_prompt(sample)
    assert reward(samples) == [1.0, 0.0, 1.0]
    assert CodeExecution(url, run_timeout=20, partial=True)(samples) == [1.0, 0.5, 1.0]


PROGRAMS = {
    "reads no environment": "import os; print(os.environ.keys() - {'PATH', 'LC_CTYPE', 'PWD'} or 'fine')",
    "reaches no network": "import socket\ntry: socket.create_connection(('127.0.0.1', PORT), 2)\n"
                          "except OSError: print('fine')",
    "sees no other process": "import os\ntry: os.kill(SERVER_PID, 0)\nexcept ProcessLookupError: print('fine')",
    "is not root": "import os; print('fine' if os.getuid() else 'root')",
    "takes no more memory": "try: bytearray(2 << 30)\nexcept MemoryError: print('fine')",
    "writes no large file": "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
                            "try: open('x', 'wb').write(bytes(1 << 25))\nexcept OSError: print('fine')",
    "starts in an empty folder": "import os; print('fine' if os.listdir() == ['program.py'] else os.listdir())",
    "has no file open but its own": "import os; print('fine' if len(os.listdir('/proc/self/fd')) == 4 else 'more')",
    "reads its input": "print(input())",
}  # fmt: skip


@pytest.mark.parametrize("claim", PROGRAMS)
def test_a_program(claim: str, sandbox: Any, url: str) -> None:
    port = url.split(":")[2].split("/")[0]
    code = PROGRAMS[claim].replace("PORT", port).replace("SERVER_PID", str(os.getpid()))
    answer = sandbox.run(code, "fine", 20)
    assert answer["run_result"]["stdout"] == "fine\n", answer


def test_no_process_of_a_program_remains_after_its_time_limit(sandbox: Any) -> None:
    code = f"""
import os, time
print("x", flush=True)
if os.fork() == 0:
    os.setsid()
while True:
    time.sleep(1)  # {os.getpid()}
"""
    answer = sandbox.run(code, "", 0.3)
    assert answer["status"] == "Failed"
    assert answer["run_result"] == {"status": "TimeLimitExceeded", "return_code": None, "stdout": "x\n", "stderr": ""}
    assert programs_of_this_process() == []


def programs_of_this_process() -> list[str]:
    """Returns the processes whose working directory was a folder of a sandbox of this test process."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"program.py" in (process / "cmdline").read_bytes() and "(deleted)" in os.readlink(process / "cwd"):
                found.append(process.name)
        except OSError:
            continue  # the process has ended
    return found


def test_a_program_cannot_pretend_that_the_service_failed(sandbox: Any) -> None:
    code = 'import os\nprint(\'{"error": "broken"}\')\nos._exit(97)'
    assert sandbox.run(code, "", 20)["run_result"]["return_code"] == 97


def test_long_output_is_cut_and_deep_folders_are_deleted(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tempfile.mkdtemp(prefix="sandbox_")
    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix: folder)
    code = "import os\nfor _ in range(3000):\n os.mkdir('x')\n os.chdir('x')\nprint('x' * 10**6)"
    assert len(sandbox.run(code, "", 20)["run_result"]["stdout"]) == 2**16
    assert not Path(folder).exists()


def test_a_python_that_does_not_start_is_an_error_of_the_service() -> None:
    answer = SERVER.Sandbox(1, "/nothing").run("print(1)", "", 20)
    assert answer["status"] == "SandboxError" and answer["run_result"] is None


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"headers": {"Content-Type": "text/plain"}}, 415),
        ({"headers": {"Host": "example.org", "Content-Type": "application/json"}}, 403),
        ({"content": b"[1]"}, 400),
        ({"content": b'{"code": "", "run_timeout": NaN}'}, 400),
        ({"content": b'{"code": "", "language": "bash"}'}, 400),
        ({"content": b""}, 413),
    ],
)
def test_a_request_of_another_client_is_refused(url: str, change: dict[str, Any], status: int) -> None:
    assert status_of(url, **change) == status


def test_a_request_that_is_too_large_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert status_of(url) == 200
    monkeypatch.setattr(SERVER, "MAX_BODY_BYTES", 10)
    assert status_of(url) == 413


def status_of(url: str, **change: Any) -> int:
    """Returns the status of the response to a valid request with a change."""
    request = {"content": b'{"code": "print(1)"}', "headers": {"Content-Type": "application/json"}} | change
    with httpx.Client(trust_env=False) as client:
        return client.post(url, **request).status_code
