"""A small Hugging Face Hub on this machine.

It has the part of the HTTP API that `huggingface_hub` and `datasets` use to read and create repositories and to push.

The error codes, the headers and the redirect of large files are those of the Hub. Xet is left out, so clients need
``HF_HUB_DISABLE_XET=1``.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

Access = Literal["public", "gated", "private"]
LARGE = (".safetensors", ".parquet", ".bin", ".pt")
"""Suffixes of files that the Hub keeps in large file storage."""


class Request(NamedTuple):
    """A request that the server got."""

    method: str
    path: str
    token: str


@dataclass
class Repository:
    """A repository with one branch, whose commit is a hash of its content."""

    files: dict[str, bytes] = field(default_factory=dict)
    access: Access = "public"

    @property
    def commit(self) -> str:
        digest = hashlib.sha1()
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + b"\0" + content)
        return digest.hexdigest()

    def entries(self, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        """Returns the files and folders below a folder, as the Hub lists them."""
        start = f"{folder}/" if folder else ""
        inside = [path for path in sorted(self.files) if path.startswith(start)]
        folders = {path[:i] for path in inside for i in range(len(start), len(path)) if path[i] == "/"}
        found = [self.folder(path) for path in sorted(folders)] + [self.file(path) for path in inside]
        return [entry for entry in found if recursive or "/" not in entry["path"][len(start) :]]

    def folder(self, path: str) -> dict[str, Any]:
        return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}

    def file(self, path: str) -> dict[str, Any]:
        content = self.files[path]
        entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry


class HubServer:
    """The server. Its attributes may be changed while it runs."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        """Repositories by ``models`` or ``datasets`` and by ``owner/name``."""
        self.requests: list[Request] = []
        self.tokens = {"hf_writes": {"me"}, "hf_reads": set[str]()}
        """Tokens, with the owners whose repositories they may read and write."""
        self.accepted: set[tuple[str, str]] = set()
        """Tokens and gated repositories whose terms their users have accepted."""
        self.cuts: dict[str, int] = {}
        """Number of further downloads of a file that break in the middle, by the end of its path."""
        self.uploads: dict[str, bytes] = {}
        self._server = self._listen(0)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.storage = f"http://localhost:{self._server.server_port}"
        """URL of large files, which are on another host than the Hub."""

    def add(self, kind: str, name: str, files: Path | Mapping[str, bytes], access: Access = "public") -> Repository:
        """Adds a repository with the files of a folder."""
        if isinstance(files, Path):
            files = {str(path.relative_to(files)): path.read_bytes() for path in files.rglob("*") if path.is_file()}
        self.repositories[kind, name] = Repository(dict(files), access)
        return self.repositories[kind, name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Refuses connections for a while."""
        port = self._server.server_port
        self.close()
        try:
            yield
        finally:
            self._server = self._listen(port)

    def _listen(self, port: int) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": self}))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server


class Refusal(Exception):
    """An error response of the Hub."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.requests.append(Request(self.command, path, self.token))
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = path.strip("/").split("/")
        try:
            if self.token and self.token not in self.hub.tokens:
                raise Refusal(401, message="Invalid credentials in Authorization header")
            if parts[0] == "lfs":
                self._large_file(parts[1])
            elif parts[:2] == ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            elif parts[:3] == ["api", "repos", "create"]:
                self._create()
            elif parts[0] == "api" and len(parts) > 3:
                self._api(parts[1], "/".join(parts[2:4]), parts[4:], parse_qs(url.query))
            elif path.endswith(".git/info/lfs/objects/batch"):
                self._batch()
            else:
                kind, parts = (parts[0], parts[1:]) if parts[0] == "datasets" else ("models", parts)
                if parts[2:3] != ["resolve"]:
                    raise Refusal(404)
                self._resolve(kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        except Refusal as refusal:
            self._send(
                refusal.status,
                json.dumps({"error": refusal.message}).encode(),
                {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message},
            )

    def _api(self, kind: str, name: str, rest: list[str], query: Mapping[str, list[str]]) -> None:
        repository = self._repository(kind, name)
        what, revision, path = (rest[0] if rest else "revision"), "".join(rest[1:2]), "/".join(rest[2:])
        if what in ("preupload", "commit"):
            self._owner(name)
        if what == "auth-check":
            self._accept(kind, name, repository)
            self._json({})
            return
        if revision not in ("", "main", repository.commit):
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if what == "revision":
            siblings = [{"rfilename": path} for path in repository.files]
            private = repository.access == "private"
            self._json({"id": name, "sha": repository.commit, "siblings": siblings, "private": private, "tags": []})
        elif what == "tree":
            entries = repository.entries(path, recursive=query.get("recursive", ["false"])[0].lower() in ("true", "1"))
            if path and not entries:
                raise Refusal(404, "EntryNotFound", f"{path} does not exist")
            self._json(entries)
        elif what == "paths-info":
            paths = parse_qs(self.body.decode()).get("paths", [])
            files = [repository.file(path) for path in paths if path in repository.files]
            self._json(files + [repository.folder(p) for p in paths if p and repository.entries(p, recursive=True)])
        elif what == "preupload":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(self.body)["files"]
            ]
            self._json({"files": modes})
        elif what == "commit":
            self._commit(name, repository)
        else:
            raise Refusal(404)

    def _commit(self, name: str, repository: Repository) -> None:
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.uploads[value["oid"]]
        url = f"{self.hub.endpoint}/{name}/commit/{repository.commit}"
        self._json({"commitUrl": url, "commitOid": repository.commit, "hookOutput": ""})

    def _create(self) -> None:
        values = json.loads(self.body)
        name = f"{values['organization']}/{values['name']}"
        self._owner(name)
        kind = f"{values.get('type') or 'model'}s"
        if (kind, name) in self.hub.repositories:
            raise Refusal(409, message="You already created this model repo")
        self.hub.add(kind, name, {}, "private" if values.get("visibility") == "private" else "public")
        self._json({"url": f"{self.hub.endpoint}/{name}"})

    def _batch(self) -> None:
        objects = [
            entry | {"actions": {"upload": {"href": f"{self.hub.storage}/lfs/{entry['oid']}"}}}
            for entry in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _large_file(self, oid: str) -> None:
        if self.command == "PUT":
            self.hub.uploads[oid] = self.body
            self._send(200)
            return
        for repository in self.hub.repositories.values():
            for path, content in repository.files.items():
                if path.endswith(LARGE) and hashlib.sha256(content).hexdigest() == oid:
                    self._file(path, content, {"ETag": f'"{oid}"'})
                    return
        raise Refusal(404)

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self._repository(kind, name)
        self._accept(kind, name, repository)
        if revision not in ("main", repository.commit):
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if path not in repository.files:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        content, entry = repository.files[path], repository.file(path)
        headers = {"X-Repo-Commit": repository.commit}
        if "lfs" not in entry:
            self._file(path, content, headers | {"ETag": f'"{entry["oid"]}"'})
            return
        oid = entry["lfs"]["oid"]
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        self._send(302, b"", headers | linked | {"Location": f"{self.hub.storage}/lfs/{oid}"})

    def _file(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        """Sends a file or a part of it, and stops in the middle if the server is set to do so."""
        total, status, start = len(content), 200, 0
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if first:
            start, end = int(first), int(last or total - 1)
            content, status = content[start : end + 1], 206
            headers["Content-Range"] = f"bytes {start}-{end}/{total}"
        cut = next((end for end, left in self.hub.cuts.items() if path.endswith(end) and left > 0), None)
        if cut is None or self.command == "HEAD":
            self._send(status, content, headers)
            return
        self.hub.cuts[cut] -= 1
        self._send(status, content, headers, sent=len(content) // 2)

    def _repository(self, kind: str, name: str) -> Repository:
        """Returns a repository. Without permission, a private repository looks like a missing one."""
        found = self.hub.repositories.get((kind, name))
        if found and (found.access != "private" or name.split("/")[0] in self.hub.tokens.get(self.token, ())):
            return found
        if self.token:
            raise Refusal(404, "RepoNotFound", "Repository not found")
        raise Refusal(401, message="Invalid username or password.")

    def _accept(self, kind: str, name: str, repository: Repository) -> None:
        """Refuses files of a gated repository to users who have not accepted its terms. Its list of files is
        public."""
        if repository.access == "gated" and (self.token, name) not in self.hub.accepted:
            raise Refusal(403 if self.token else 401, "GatedRepo", f"Access to {kind[:-1]} {name} is restricted.")

    def _owner(self, name: str) -> None:
        """Refuses writes without a token of the owner."""
        if not self.token:
            raise Refusal(401, message="Invalid username or password.")
        owner = name.split("/")[0]
        if owner not in self.hub.tokens[self.token]:
            raise Refusal(403, message=f'You don\'t have the rights to create a model under the namespace "{owner}"')

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, content: bytes = b"", headers: Mapping[str, str] = {}, sent: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            if value:
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
