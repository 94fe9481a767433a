"""A reward as an HTTP server, for libraries that cannot be installed in the same environment.

Usage: python http_server.py [PORT]

The server listens only on this machine. The format is that of rewards/remote.py.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def rewards(body: dict[str, Any]) -> list[float | None]:
    """Computes the rewards, here the fraction of digits in each completion."""
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in body["completions"]]


class Handler(BaseHTTPRequestHandler):
    """Answers POST with the rewards of a batch."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"rewards": rewards(body)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def serve(port: int = 8400) -> ThreadingHTTPServer:
    """Returns a server that is ready to be run with ``serve_forever``."""
    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    server = serve(int(sys.argv[1]) if len(sys.argv) > 1 else 8400)
    print(f"serving rewards at http://127.0.0.1:{server.server_address[1]}; end with Ctrl-C")
    server.serve_forever()
