"""A Hugging Face Hub on the loopback interface, so that tests need no network.

The real huggingface_hub client creates, uploads, tags, lists and downloads against it: it answers
what that client asks about models, keeps everything in memory, and fails on demand. A request it
does not know is answered with 501, which the client reports at once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".ckpt")
"""Files the Hub keeps in LFS, where the entity tag is the SHA-256 and not the git blob id."""

USER = "tester"
"""Who every token belongs to: the owner of a repository created without one."""

_DATE = "2025-01-01T00:00:00.000Z"
_GIT_ATTRIBUTES = "".join(f"*{s} filter=lfs diff=lfs merge=lfs -text\n" for s in LFS_SUFFIXES)


class Request(NamedTuple):
    """A request as the hub saw it: the path with its query, header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


class LoopbackHub:
    """A Hub in memory on 127.0.0.1, up inside ``with LoopbackHub() as hub``.

    Reading needs no token, except where ``private`` or ``gated`` says so; writing needs one, and
    any will do. Everything below may be changed while the hub is up:

    Attributes:
        requests: every request so far, refused ones too.
        private: repository to the token that sees it; without it, the repository does not exist.
        gated: repository to the token that may read its files; what it holds, anybody may list.
        fail: a piece of ``"METHOD /path?query"`` to the status that every such request is answered
            with. A list of statuses is used up, one per request. 0 closes the connection instead.
        cut_after: the connection is closed after so many bytes of a file. A list is used up, one
            per file request.
        reset: whether such a cut is a TCP reset. The client gives up on a reset at once; after a
            plain close it tries five times more, a second apart.
        corrupt: files, by their path in the repository, that arrive with one byte changed.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.private: dict[str, str] = {}
        self.gated: dict[str, str] = {}
        self.fail: dict[str, int | list[int]] = {}
        self.cut_after: int | list[int] | None = None
        self.reset = False
        self.corrupt: set[str] = set()
        self._repos: dict[str, _Repo] = {}
        self._lock = threading.RLock()
        self._port = 0
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        if not self._port:
            raise RuntimeError("The hub has no address before its first start.")
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the port of the first time, with everything that was there before."""
        if self._server is not None:
            raise RuntimeError("The hub is up already.")
        self._server = _Server(self, self._port)
        self._port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="loopback hub", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections from here on. Returns when every request under way has ended."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> LoopbackHub:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self, program: str, cache: Path) -> subprocess.CompletedProcess[str]:
        """Run a Python program in a process that knows this hub alone and has a cache of its own.

        Nothing is said of progress, so that what is on stderr is what went wrong.
        """
        return subprocess.run(
            [sys.executable, "-c", program],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
                "HF_HOME": str(cache),
                "HF_ENDPOINT": self.endpoint,
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "NO_PROXY": "127.0.0.1",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )

    def add(self, repo_id: str, files: dict[str, bytes], *, message: str = "Add files") -> str:
        """Commit files to main, in a new repository if there is none, and return the commit id."""
        with self._lock:
            repo = self._repos.setdefault(repo_id, _Repo(repo_id))
            head = repo.branches.get("main")
            before = repo.commits[head].files if head else {}
            return repo.commit("main", before | files, message)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Every file at a branch, tag or commit."""
        with self._lock:
            return dict(self._repos[repo_id].at(revision).files)

    def commits(self, repo_id: str) -> list[str]:
        """The messages of the commits of all branches, oldest first."""
        with self._lock:
            return [commit.message for commit in self._repos[repo_id].commits.values()]

    def tags(self, repo_id: str) -> dict[str, str]:
        """Tag to commit id."""
        with self._lock:
            return dict(self._repos[repo_id].tags)

    def _answer(self, request: Request, body: bytes) -> _Answer:
        """What the handler sends. Raises _Refusal where the Hub answers with an error."""
        path, _, query = request.path.partition("?")
        parts = [unquote(part) for part in path.strip("/").split("/")]
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.method == "POST" and parts != ["api", "validate-yaml"] and not token:
            raise _Refusal(401, None, "Invalid username or password.")
        with self._lock:
            match [request.method, *parts]:
                case ["GET", "api", "whoami-v2"]:
                    if not token:
                        raise _Refusal(401, None, "Invalid username or password.")
                    return _answer_json({"type": "user", "name": USER, "orgs": []})
                case ["POST", "api", "validate-yaml"]:
                    return _answer_validation(json.loads(body)["content"])
                case ["POST", "api", "repos", "create"]:
                    return self._create(json.loads(body), token)
                case ["POST", "api", "models", owner, name, "preupload", revision]:
                    repo = self._find(f"{owner}/{name}", token)
                    return _answer_preupload(repo, revision, json.loads(body))
                case ["POST", "api", "models", owner, name, "commit", revision]:
                    repo = self._find(f"{owner}/{name}", token)
                    lines = [json.loads(line) for line in body.splitlines() if line]
                    commit_id = _apply_commit(repo, revision, lines)
                    url = f"{self.endpoint}/{repo.id}/commit/{commit_id}"
                    return _answer_json({"success": True, "commitUrl": url, "commitOid": commit_id})
                case ["POST", "api", "models", owner, name, "tag", revision]:
                    repo = self._find(f"{owner}/{name}", token)
                    tag, commit = json.loads(body)["tag"], repo.at(revision)
                    if tag in repo.tags:
                        raise _Refusal(409, None, "Tag reference exists already")
                    repo.tags[tag] = commit.id
                    return _answer_json({})
                case ["GET", "api", "models", owner, name]:
                    repo = self._find(f"{owner}/{name}", token)
                    return self._describe(repo, "main", parse_qs(query))
                case ["GET", "api", "models", owner, name, "revision", revision]:
                    repo = self._find(f"{owner}/{name}", token)
                    return self._describe(repo, revision, parse_qs(query))
                case ["GET", "api", "models", owner, name, "refs"]:
                    return _answer_refs(self._find(f"{owner}/{name}", token))
                case ["GET", "api", "models", owner, name, "tree", revision, *folder]:
                    commit = self._find(f"{owner}/{name}", token).at(revision)
                    recursive = parse_qs(query).get("recursive") == ["true"]
                    return _answer_tree(commit, "/".join(folder), recursive)
                case ["GET" | "HEAD", owner, name, "resolve", revision, *file] if file:
                    repo = self._find(f"{owner}/{name}", token)
                    if self.gated.get(repo.id, token) != token:
                        message = f"Access to model {repo.id} is restricted."
                        raise _Refusal(403 if token else 401, "GatedRepo", message)
                    return self._resolve(repo.at(revision), "/".join(file), request)
                case ["GET", "api", "models", _] | ["GET" | "HEAD", _, "resolve", *_]:
                    raise _repo_not_found(token)  # every repository here has an owner
        raise _Refusal(501, None, f"The loopback hub has no answer: {request.method} {path}")

    def _find(self, repo_id: str, token: str) -> _Repo:
        repo = self._repos.get(repo_id)
        if repo is None or self.private.get(repo_id, token) != token:
            raise _repo_not_found(token)
        return repo

    def _create(self, payload: dict[str, Any], token: str) -> _Answer:
        repo_id = f"{payload.get('organization') or USER}/{payload['name']}"
        answer = {"url": f"{self.endpoint}/{repo_id}", "name": repo_id}
        if repo_id in self._repos:
            answer["error"] = "You already created this model repo"
            return _answer_json(answer, 409)
        if payload.get("visibility") == "private" or payload.get("private"):
            self.private[repo_id] = token
        repo = self._repos[repo_id] = _Repo(repo_id)
        repo.commit("main", {".gitattributes": _GIT_ATTRIBUTES.encode()}, "initial commit")
        return _answer_json(answer)

    def _describe(self, repo: _Repo, revision: str, query: dict[str, list[str]]) -> _Answer:
        commit = repo.at(revision)
        siblings: list[dict[str, Any]] = []
        for path, data in sorted(commit.files.items()):
            sibling: dict[str, Any] = {"rfilename": path}
            if query.get("blobs") == ["true"]:
                sibling |= {"size": len(data), "blobId": git_blob_id(data)}
                if path.endswith(LFS_SUFFIXES):
                    sha256 = hashlib.sha256(data).hexdigest()
                    sibling["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
            siblings.append(sibling)
        return _answer_json(
            {
                "id": repo.id,
                "modelId": repo.id,
                "author": repo.id.partition("/")[0],
                "sha": commit.id,
                "private": repo.id in self.private,
                "gated": "manual" if repo.id in self.gated else False,
                "disabled": False,
                "createdAt": _DATE,
                "lastModified": _DATE,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": siblings,
            }
        )

    def _resolve(self, commit: _Commit, path: str, request: Request) -> _Answer:
        headers = {"X-Repo-Commit": commit.id}
        data = commit.files.get(path)
        if data is None:
            raise _Refusal(404, "EntryNotFound", "Entry not found", headers)
        etag = entity_tag(path, data)
        headers |= {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if path.endswith(LFS_SUFFIXES):
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        if path in self.corrupt and data:
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
        content_type = "application/octet-stream"
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if asked is None:
            return _Answer(200, data, content_type, headers, is_file=True)
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if first > last:
            content_range = {"Content-Range": f"bytes */{len(data)}"}
            raise _Refusal(416, None, "Range Not Satisfiable", headers | content_range)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return _Answer(206, data[first : last + 1], content_type, headers, is_file=True)

    def _take_failure(self, request: Request) -> int | None:
        """The status that this request has to fail with, if any."""
        with self._lock:
            for piece, status in self.fail.items():
                if piece in f"{request.method} {request.path}":
                    if not isinstance(status, list):
                        return status
                    if status:
                        return status.pop(0)
        return None

    def _take_cut(self) -> int | None:
        """How many bytes of a file to send, or None for all of them."""
        with self._lock:
            if isinstance(self.cut_after, list):
                return self.cut_after.pop(0) if self.cut_after else None
            return self.cut_after


def git_blob_id(data: bytes) -> str:
    """The id that git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entity_tag(path: str, data: bytes) -> str:
    """The entity tag of a file, which is also its name among the blobs of the client's cache."""
    if path.endswith(LFS_SUFFIXES):
        return hashlib.sha256(data).hexdigest()
    return git_blob_id(data)


@dataclass(frozen=True)
class _Commit:
    id: str
    message: str
    files: dict[str, bytes]


@dataclass
class _Repo:
    id: str
    commits: dict[str, _Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> _Commit:
        commit_id = self.branches.get(revision) or self.tags.get(revision) or revision
        if commit_id not in self.commits:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self.commits[commit_id]

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        blobs = {path: git_blob_id(data) for path, data in files.items()}
        origin = [self.id, len(self.commits), self.branches.get(branch), message, blobs]
        commit_id = hashlib.sha1(json.dumps(origin).encode()).hexdigest()
        self.commits[commit_id] = _Commit(commit_id, message, dict(files))
        self.branches[branch] = commit_id
        return commit_id


class _Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str
    headers: dict[str, str]
    is_file: bool = False


class _Refusal(Exception):  # noqa: N818
    def __init__(
        self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        marks = {"X-Error-Code": code} if code else {}
        marks |= {"X-Error-Message": message} | (headers or {})
        self.answer = _answer_json({"error": message}, status, marks)


def _repo_not_found(token: str) -> _Refusal:
    message = "Repository not found" if token else "Invalid username or password."
    return _Refusal(404 if token else 401, "RepoNotFound", message)


def _answer_json(
    content: object, status: int = 200, headers: dict[str, str] | None = None
) -> _Answer:
    return _Answer(status, json.dumps(content).encode(), "application/json", headers or {})


def _answer_validation(card: str) -> _Answer:
    """A card without metadata is warned of, as on the Hub, where the client then warns too."""
    missing = not re.match(r"---\s*\n(.*?\n)?---\s*(\n|$)", card, re.DOTALL)
    warning = {"message": "empty or missing yaml metadata in repo card"}
    return _answer_json({"errors": [], "warnings": [warning] if missing else []})


def _answer_preupload(repo: _Repo, revision: str, payload: dict[str, Any]) -> _Answer:
    """Every file is to come in the commit itself, base64. That keeps Xet and LFS out."""
    held = repo.at(revision).files
    modes = []
    for file in payload["files"]:
        path = file["path"]
        mode = {"path": path, "uploadMode": "regular", "shouldIgnore": False}
        modes.append(mode | ({"oid": git_blob_id(held[path])} if path in held else {}))
    return _answer_json({"files": modes})


def _apply_commit(repo: _Repo, revision: str, lines: list[dict[str, Any]]) -> str:
    head = repo.at(revision)
    if revision not in repo.branches:
        raise _Refusal(400, None, f"{revision} is not a branch")
    files, message = dict(head.files), ""
    for line in lines:
        key, value = line["key"], line["value"]
        if key == "header":
            message = value["summary"]
            if value.get("parentCommit", head.id) != head.id:
                raise _Refusal(412, None, "A commit has happened since. Please refresh.")
        elif key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key in ("deletedFile", "deletedFolder"):
            path = value["path"].rstrip("/")
            folder = key == "deletedFolder"
            gone = [p for p in files if (p.startswith(f"{path}/") if folder else p == path)]
            if not gone:
                raise _Refusal(404, "EntryNotFound", "A file with this name doesn't exist")
            for p in gone:
                del files[p]
        else:
            raise _Refusal(400, None, f"The loopback hub takes no {key} in a commit")
    return repo.commit(revision, files, message)


def _answer_refs(repo: _Repo) -> _Answer:
    def describe(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit_id}
            for name, commit_id in refs.items()
        ]

    branches, tags = describe("heads", repo.branches), describe("tags", repo.tags)
    return _answer_json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


def _answer_tree(commit: _Commit, folder: str, recursive: bool) -> _Answer:
    start = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, data in sorted(commit.files.items()):
        if not path.startswith(start):
            continue
        names = path[len(start) :].split("/")
        for depth in range(1, len(names) if recursive else min(2, len(names))):
            parent = start + "/".join(names[:depth])
            oid = hashlib.sha1(parent.encode()).hexdigest()
            entries[parent] = {"type": "directory", "path": parent, "oid": oid, "size": 0}
        if recursive or len(names) == 1:
            entry = {"type": "file", "path": path, "oid": git_blob_id(data), "size": len(data)}
            if path.endswith(LFS_SUFFIXES):
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
            entries[path] = entry
    if folder and not entries:
        raise _Refusal(404, "EntryNotFound", f"{folder} does not exist")
    return _answer_json(list(entries.values()))


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for the requests under way
    request_queue_size = 32

    def __init__(self, hub: LoopbackHub, port: int) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer would look its own name up
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 5  # seconds a client may stay silent, and keep the hub from stopping

    def log_message(self, *_: object) -> None:
        pass

    def _respond(self) -> None:
        hub = self.server.hub
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers)
        hub.requests.append(request)
        failure = hub._take_failure(request)
        if failure == 0:
            self.close_connection = True
            return
        if failure is not None:
            self._send(_answer_json({"error": "The loopback hub was told to fail."}, failure))
            return
        try:
            answer = hub._answer(request, body)
        except _Refusal as refusal:
            answer = refusal.answer
        self._send(answer)

    do_GET = do_HEAD = do_POST = _respond  # noqa: N815

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.server.hub._take_cut() if answer.is_file else None
        self.wfile.write(memoryview(answer.body)[:cut])
        if cut is not None and cut < len(answer.body) and self.server.hub.reset:
            linger_not = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
            self.rfile.close()  # the socket closes with the last file on it
            self.connection.close()
