"""A stand-in for a model hub's HTTP API, as far as huggingface_hub calls it to upload: one commit or none."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_of_me"
MINE = "me"
_LARGE = (".safetensors", ".onnx", ".parquet")


def _commit_id(files: dict[str, bytes], before: str) -> str:
    state = before + "".join(
        f"{name}{hashlib.sha1(data).hexdigest()}" for name, data in sorted(files.items())
    )
    return hashlib.sha1(state.encode()).hexdigest()


@dataclass
class Branch:
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.onnx filter=lfs\n"})
    commits: list[tuple[str, str]] = field(default_factory=lambda: [("0" * 40, "initial commit")])

    @property
    def head(self) -> str:
        return self.commits[-1][0]


@dataclass
class Repository:
    private: bool = False
    branches: dict[str, Branch] = field(default_factory=lambda: {"main": Branch()})


@dataclass
class Hub:
    """What the stand-in holds, and how it may be told to misbehave."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    answer_with: dict[str, int] = field(default_factory=dict)
    """A status for every request whose path holds this text."""
    hang_at: str | None = None
    """A request whose path holds this text is never answered."""
    hanging: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)

    def main(self, repo_id: str) -> Branch:
        return self.repositories[repo_id].branches["main"]


class RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        self.status, self.message, self.code = status, message, code


def _answer(hub: Hub, method: str, path: str, body: bytes) -> Any:
    parts = [unquote(part) for part in path.strip("/").split("/")]
    match method, parts:
        case "POST", ["api", "validate-yaml"]:
            _, front, _ = json.loads(body)["content"].split("---\n", 2)
            assert isinstance(yaml.safe_load(front), dict)
            return {"warnings": [], "errors": []}
        case "POST", ["api", "repos", "create"]:
            return _create(hub, json.loads(body))
        case "GET", ["api", "models", owner, name, *revision]:
            branch = revision[1] if revision else "main"
            repository, found = _branch(hub, f"{owner}/{name}", branch)
            siblings = [{"rfilename": file} for file in found.files]
            return {
                "id": f"{owner}/{name}",
                "sha": found.head,
                "private": repository.private,
                "siblings": siblings,
            }
        case "POST", ["api", "models", owner, name, "branch", branch]:
            repository, main = _branch(hub, f"{owner}/{name}", "main")
            if branch in repository.branches:
                raise RefusedError(409, "Reference already exists")
            repository.branches[branch] = Branch(dict(main.files), list(main.commits))
            return {}
        case "POST", ["api", "models", _, _, "preupload", _]:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return {"files": files}
        case "POST", [_, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
            return {"objects": [_upload_action(hub, wanted) for wanted in json.loads(body)["objects"]]}
        case "PUT", ["large", oid]:
            if hashlib.sha256(body).hexdigest() != oid:
                raise RefusedError(400, "other bytes than announced")
            hub.large[oid] = body
            return {}
        case "POST", ["api", "models", owner, name, "commit", branch]:
            return _commit(hub, f"{owner}/{name}", branch, [json.loads(line) for line in body.splitlines()])
    raise RefusedError(404, f"no such route: {method} {path}")


def _create(hub: Hub, asked: dict[str, Any]) -> dict[str, str]:
    repo_id = f"{asked['organization']}/{asked['name']}"
    if asked["organization"] != MINE:
        raise RefusedError(403, f"You don't have the rights to create a model under {asked['organization']}")
    if repo_id in hub.repositories:
        raise RefusedError(409, "You already created this model repo")
    hub.repositories[repo_id] = Repository(private=asked.get("visibility") == "private")
    return {"url": f"{hub.url}/{repo_id}"}


def _branch(hub: Hub, repo_id: str, branch: str) -> tuple[Repository, Branch]:
    if repo_id not in hub.repositories:
        raise RefusedError(404, "Repository not found", "RepoNotFound")
    repository = hub.repositories[repo_id]
    if branch not in repository.branches:
        raise RefusedError(404, "Invalid rev id", "RevisionNotFound")
    return repository, repository.branches[branch]


def _upload_action(hub: Hub, wanted: dict[str, Any]) -> dict[str, Any]:
    if wanted["oid"] in hub.large:
        return wanted
    return wanted | {"actions": {"upload": {"href": f"{hub.url}/large/{wanted['oid']}"}}}


def _commit(hub: Hub, repo_id: str, branch: str, lines: list[dict[str, Any]]) -> dict[str, str]:
    _, found = _branch(hub, repo_id, branch)
    files = dict(found.files)
    header, *operations = lines
    if header["value"].get("parentCommit") not in (None, found.head):
        raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
    for operation in operations:
        value = operation["value"]
        match operation["key"]:
            case "file":
                files[value["path"]] = base64.b64decode(value["content"])
            case "lfsFile":
                files[value["path"]] = hub.large[value["oid"]]
            case "deletedFile":
                del files[value["path"]]
    oid = _commit_id(files, found.head)
    found.files, found.commits = files, [*found.commits, (oid, header["value"]["summary"])]
    return {"commitUrl": f"{hub.url}/{repo_id}/commit/{oid}", "commitOid": oid}


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            path = urlsplit(self.path).path
            body = self._body()
            hub.asked.append((self.command, path))
            try:
                if hub.hang_at is not None and hub.hang_at in path:
                    hub.hanging.set()
                    hub.let_go.wait(60)
                    return
                for text, status in hub.answer_with.items():
                    if text in path:
                        raise RefusedError(status, "as it was told to")
                # Storage takes uploads by the address alone, as real ones do.
                if not path.startswith("/large/") and self.headers["authorization"] != f"Bearer {TOKEN}":
                    raise RefusedError(401, "Invalid credentials in Authorization header")
                self._send(200, _answer(hub, self.command, path, body))
            except RefusedError as refused:
                code = {"X-Error-Code": refused.code} if refused.code else {}
                headers = {"X-Error-Message": refused.message, **code}
                self._send(refused.status, {"error": refused.message}, headers)
            except ConnectionError:
                pass  # a test killed the client

        do_GET = do_POST = do_PUT = handle_any

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("transfer-encoding", ""):
                return self.rfile.read(int(self.headers.get("content-length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**(headers or {}), "content-type": "application/json"}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.let_go.set()
        server.shutdown()
        server.server_close()
