"""A stand-in for the Hub: what huggingface_hub's client asks of it, over HTTP, from memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_standin"
"""The token that may create repositories and read private ones."""


@dataclass
class Repository:
    """One repository.

    Attributes:
        private: Whether reading it takes the token.
        commits: Files by path, by commit.
        refs: Commit of each branch or tag.
    """

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add files on a branch; return the commit."""
        held = {**self.commits.get(self.refs.get(branch, ""), {}), **files}
        text = f"{len(self.commits)} {branch} {sorted(held)}"
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid], self.refs[branch] = held, oid
        return oid


@dataclass
class Hub:
    """The stand-in.

    Attributes:
        endpoint: Its address.
        repositories: By id.
        asked: Method and path of every request.
    """

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(self, name: str, folder: Path, inside: str = "", **options: Any) -> Repository:
        """Put the files of a folder into a new repository."""
        made = self.repositories.setdefault(name, Repository(**options))
        files = [path for path in folder.rglob("*") if path.is_file()]
        made.commit({f"{inside}{p.relative_to(folder).as_posix()}": p.read_bytes() for p in files})
        return made


class _RefusedError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str, told: dict[str, str] | None = None) -> None:
        super().__init__(code)
        self.status, self.code, self.told = status, code, told or {}


class _Handler(BaseHTTPRequestHandler):
    """Answers the client; ``hub`` is set on a subclass."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        """Answer a question or send a file."""
        self._answer(self._get)

    def do_HEAD(self) -> None:
        """Answer without the content."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Create a repository or a commit."""
        self._answer(self._post)

    def _answer(self, method: Any) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            content, headers = method(path, body)
            status = 200
        except _RefusedError as refused:
            status, content = refused.status, refused.told
            headers = {"X-Error-Code": refused.code}
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _repository(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """Commit and files of a revision."""
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._trusted()):
            raise _RefusedError(401 if not self._trusted() else 404, "RepoNotFound")
        oid = found.refs.get(revision, revision)
        if oid not in found.commits:
            raise _RefusedError(404, "RevisionNotFound")
        return oid, found.commits[oid]

    def _trusted(self) -> bool:
        return bool(self.headers.get("Authorization") == f"Bearer {TOKEN}")

    def _get(self, path: str, _: bytes) -> tuple[Any, dict[str, str]]:
        if path == "/api/whoami-v2":
            if not self._trusted():
                raise _RefusedError(401, "InvalidToken")
            return {"type": "user", "name": "org", "orgs": []}, {}
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            oid, files = self._repository(match[1], match[2] or "main")
            siblings = [{"rfilename": name} for name in files]
            return {"id": match[1], "modelId": match[1], "sha": oid, "siblings": siblings}, {}
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(/.*)?", path):
            _, files = self._repository(match[1], match[2])
            folder = f"{match[3].strip('/')}/" if match[3] else ""
            found = {name: held for name, held in files.items() if name.startswith(folder)}
            if not found:
                raise _RefusedError(404, "EntryNotFound")
            return [
                {"type": "file", "path": name, "size": len(held), "oid": _etag(held)}
                for name, held in found.items()
            ], {}
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            oid, files = self._repository(match[1], match[2])
            if match[3] not in files:
                raise _RefusedError(404, "EntryNotFound")
            held = files[match[3]]
            return held, {"ETag": f'"{_etag(held)}"', "X-Repo-Commit": oid}
        raise _RefusedError(404, "RepoNotFound")

    def _post(self, path: str, body: bytes) -> tuple[Any, dict[str, str]]:
        if not self._trusted():
            raise _RefusedError(401, "InvalidToken")
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}, {}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'org'}/{asked['name']}"
            if name in self.hub.repositories:
                raise _RefusedError(409, "", {"url": f"{self.hub.endpoint}/{name}"})
            private = bool(asked.get("private") or asked.get("visibility") == "private")
            self.hub.repositories[name] = Repository(private)
            self.hub.repositories[name].commit({".gitattributes": b""})
            return {"url": f"{self.hub.endpoint}/{name}", "id": name}, {}
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            self._repository(match[1], match[2])
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            return {"files": files}, {}
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            self._repository(match[1], match[2])
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            oid = self.hub.repositories[match[1]].commit(files, match[2])
            url = f"{self.hub.endpoint}/{match[1]}/commit/{oid}"
            return {"success": True, "commitOid": oid, "commitUrl": url}, {}
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
            held = self.hub.repositories[match[1]]
            held.refs.setdefault(match[2], held.refs["main"])
            return {}, {}
        raise _RefusedError(404, "RepoNotFound")


def _etag(held: bytes) -> str:
    return hashlib.sha1(held).hexdigest()


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve an empty Hub on a port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
