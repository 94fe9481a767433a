"""A service that runs Python programs of a model that you trust not to attack the machine.

Usage: python server.py [--port 8080] [--num_parallel N] [--python PATH] [--allow_unisolated]

It listens only on this machine and implements the part of SandboxFusion's protocol that the reward `code_execution`
uses. README.md says what it does not protect against.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

RUNNER = Path(__file__).with_name("runner.py")
LONGEST_SECONDS = 60.0
GRACE_SECONDS = 10.0
"""Time that runner.py may take besides the program's own."""
REQUEST_SECONDS = 30.0
"""Longest pause of a client while it sends a request."""
MAX_BODY_BYTES = 8 * 2**20
MAX_OUTPUT_BYTES = 2**16


class Sandbox:
    """Runs each program in its own process with limits, in an empty folder that is deleted afterwards."""

    def __init__(self, num_parallel: int, python: str = sys.executable, allow_unisolated: bool = False) -> None:
        """Keeps the settings.

        Args:
            num_parallel: Number of programs that run at a time. Others wait.
            python: Path of the Python that runs the programs.
            allow_unisolated: Whether programs also run if the kernel does not allow the service to isolate them from
                the network and from other processes.
        """
        self._places = threading.BoundedSemaphore(num_parallel)
        self._python, self._allow_unisolated = python, allow_unisolated

    def run(self, code: str, stdin: str, seconds: float) -> dict[str, Any]:
        """Runs one program.

        Args:
            code: Program in Python.
            stdin: Text of its standard input.
            seconds: Time limit, at most 60.

        Returns:
            The answer of the protocol. The first 64 KiB of each output are in it.
        """
        with self._places:
            folder = Path(tempfile.mkdtemp(prefix="sandbox_"))
            try:
                return self._run(folder, code, stdin, min(max(seconds, 0.1), LONGEST_SECONDS))
            finally:
                # The program may have made folders in folders that are too deep for shutil.rmtree.
                subprocess.run(["rm", "-rf", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)

    def _run(self, folder: Path, code: str, stdin: str, seconds: float) -> dict[str, Any]:
        work = folder / "work"
        work.mkdir()
        folder.chmod(0o711)  # runner.py may give the program another user
        work.chmod(0o777)
        for path, text in (
            (work / "program.py", code),
            (folder / "stdin", stdin),
            (folder / "stdout", ""),
            (folder / "stderr", ""),
        ):
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
        report = self._report(work, seconds)
        if "error" in report:
            return {"status": "SandboxError", "message": report["error"], "run_result": None}
        for name in ("stdout", "stderr"):
            with (folder / name).open("rb") as file:
                report[name] = file.read(MAX_OUTPUT_BYTES).decode(errors="replace")
        is_fine = report["status"] == "Finished" and report["return_code"] == 0
        return {"status": "Success" if is_fine else "Failed", "message": "", "run_result": report}

    def _report(self, work: Path, seconds: float) -> dict[str, Any]:
        """Returns the report of runner.py about the program, or an object with the reason of a failure as "error"."""
        runner = subprocess.Popen(
            [sys.executable, "-I", str(RUNNER), self._python, str(seconds), str(int(self._allow_unisolated))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=work,
            env={},
            start_new_session=True,
        )
        printed, failure = b"", b"it did not end"
        try:
            printed, failure = runner.communicate(timeout=seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # the values above report this
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(runner.pid, signal.SIGKILL)  # a program without a namespace may have left processes
            runner.communicate()
        try:
            return json.loads(printed.splitlines()[0])
        except (ValueError, IndexError):
            return {"error": f"runner.py failed: {failure.decode(errors='replace')[-500:]}"}


class Handler(BaseHTTPRequestHandler):
    """Answers POST to /run_code."""

    sandbox: Sandbox
    timeout = REQUEST_SECONDS

    def do_POST(self) -> None:
        """Runs one program."""
        if problem := self._refusal():
            self.send_error(*problem)
            return
        try:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, stdin = str(body["code"]), str(body.get("stdin") or "")
            seconds = float(body.get("run_timeout") or 10.0)
            language = body.get("language", "python")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.send_error(400, "expected JSON with the field code")
            return
        if language != "python" or not math.isfinite(seconds):
            self.send_error(400, "expected the language python and a finite run_timeout")
            return
        answer = json.dumps(self.sandbox.run(code, stdin, seconds)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _refusal(self) -> tuple[int, str] | None:
        """Returns the reason why a request is rejected.

        A browser lets every web page post to this machine. Such a page can neither choose this content type nor send
        one of these hosts, even if its own name is bound to this machine (DNS rebinding).
        """
        length = self.headers.get("Content-Length", "")
        if self.path != "/run_code":
            return 404, "expected /run_code"
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in ("127.0.0.1", "localhost"):
            return 403, "expected the host 127.0.0.1 or localhost"
        if self.headers.get_content_type() != "application/json":
            return 415, "expected application/json"
        if not (length.isascii() and length.isdigit() and 0 < int(length) <= MAX_BODY_BYTES):
            return 413, f"expected a body of 1 to {MAX_BODY_BYTES} bytes"
        return None

    def log_message(self, format: str, *args: Any) -> None:
        """Writes no line for each request."""


def serve(port: int, sandbox: Sandbox) -> ThreadingHTTPServer:
    """Returns a server that is ready to be run with ``serve_forever``.

    Args:
        port: Port on 127.0.0.1; 0 chooses a free one.
        sandbox: The sandbox that runs the programs.
    """
    return ThreadingHTTPServer(("127.0.0.1", port), type("BoundHandler", (Handler,), {"sandbox": sandbox}))


def main() -> None:
    """Runs one program to see whether this is possible, and then serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="Port of 127.0.0.1 on which the service listens.")
    parser.add_argument(
        "--num_parallel", type=int, default=0, help="Number of programs that run at a time; 0 is the number of CPUs."
    )
    parser.add_argument(
        "--python", default=sys.executable, help="Python that runs the programs; the default is that of the service."
    )
    parser.add_argument(
        "--allow_unisolated",
        action="store_true",
        help="Run programs even if the kernel does not allow the service to isolate them.",
    )
    given = parser.parse_args()
    sandbox = Sandbox(given.num_parallel or os.cpu_count() or 1, given.python, given.allow_unisolated)
    answer = sandbox.run("print(1)", "", 10)
    if answer["status"] != "Success":
        sys.exit(f"error: {answer['message'] or answer['run_result']}")
    server = serve(given.port, sandbox)
    print(f"running programs for http://127.0.0.1:{server.server_address[1]}/run_code; end with Ctrl-C", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("ended")


if __name__ == "__main__":
    main()
