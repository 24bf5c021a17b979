"""A local HTTP server that stands in for the Hugging Face Hub, good enough for the real client.

    with StandInHub() as hub:
        sha = hub.add("user/repo", {"config.json": b"{}"})
        path = huggingface_hub.hf_hub_download("user/repo", "config.json", endpoint=hub.url, cache_dir=tmp_path)

Three ways to point the client at it, tried with huggingface_hub 2.4:

1. `endpoint=hub.url` (to `hf_hub_download`, `snapshot_download`, `HfApi`): always works, also in this process.
2. `point_client_at(hub, monkeypatch, home)`: for code of ours that passes no endpoint. The client reads its
   environment once, when it is imported, so the variables must be changed where it keeps them,
   `huggingface_hub.constants`. The functions that are methods of the one `HfApi` made at import
   (`huggingface_hub.create_repo`, `upload_folder`, ...) keep the old endpoint: make an `HfApi()` of your own.
3. `run_python(code, hub, home)`: a fresh process with the environment variables; the only proof that they work.

Every file is a regular one (no LFS, no Xet), which is what the server asks for when files are uploaded.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_stand_in_write"
READ_TOKEN = "hf_stand_in_read"
USER = "tester"


@dataclass
class _Repository:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


class StandInHub:
    """The server and what it holds.

    Attributes:
        url: its address, to be used as endpoint.
        requests: every request so far, as (method, path without the query).
        token: allowed to read everything and to write.
        read_token: allowed to read everything; writing with it is a 403.
    """

    token = TOKEN
    read_token = READ_TOKEN

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self._repositories: dict[str, _Repository] = {}
        self._truncated: dict[tuple[str, str], tuple[int, bool]] = {}
        self._status: int | None = None
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "StandInHub":
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, repo_id: str, files: dict[str, bytes], *, revision: str = "main", private: bool = False) -> str:
        """Commit exactly these files, make `revision` (a branch or tag) point to it, and return the commit's hash."""
        with self._lock:
            repository = self._repositories.setdefault(repo_id, _Repository())
            repository.private = private
            sha = hashlib.sha1(f"{repo_id} {len(repository.commits)}".encode()).hexdigest()
            repository.commits[sha] = dict(files)
            repository.refs[revision] = sha
            return sha

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository, for example of one that was uploaded."""
        repository = self._repositories[repo_id]
        return dict(repository.commits[self._sha(repository, revision) or revision])

    def is_private(self, repo_id: str) -> bool:
        """Whether the repository was made private."""
        return self._repositories[repo_id].private

    def truncate(self, repo_id: str, filename: str, keep_bytes: int | None, *, silently: bool = False) -> None:
        """Send only a file's first bytes.

        HEAD always announces the whole file. GET does too and then closes the connection, or, `silently`,
        announces and sends the shorter file as if it were whole. `keep_bytes` None ends it.
        """
        if keep_bytes is None:
            self._truncated.pop((repo_id, filename), None)
        else:
            self._truncated[repo_id, filename] = keep_bytes, silently

    def fail(self, status: int | None) -> None:
        """Answer every request with this status; None ends it."""
        self._status = status

    def gets(self) -> list[str]:
        """The paths of the GET requests for file contents."""
        return [path for method, path in self.requests if method == "GET" and "/resolve/" in path]

    @staticmethod
    def _sha(repository: _Repository, revision: str) -> str | None:
        return repository.refs.get(revision) or (revision if revision in repository.commits else None)


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", commit: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}


def _blob_id(data: bytes) -> str:
    """git's name for a file, which is also the ETag of a regular file on the Hub."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _handler_for(hub: StandInHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def log_message(self, *arguments: Any) -> None:
            """Say nothing: the requests are in `hub.requests`."""

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with hub._lock:
                hub.requests.append((self.command, path))
                try:
                    if hub._status is not None:
                        raise _Refusal(hub._status, message="the stand-in was told to fail")
                    if path.startswith("/api/"):
                        self._api(path.removeprefix("/api/"), body)
                    else:
                        self._resolve(path)
                except _Refusal as refusal:
                    self._send(refusal.status, json.dumps({"error": str(refusal)}).encode(), refusal.headers)

        # Who may do what --------------------------------------------------------------------------------

        def _token(self) -> str:
            token: str = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token and token not in (TOKEN, READ_TOKEN):
                raise _Refusal(401, message="Invalid credentials in Authorization header")
            return token

        def _need_write(self) -> None:
            token = self._token()
            if not token:
                raise _Refusal(401, message="Invalid username or password.")
            if token != TOKEN:
                raise _Refusal(403, message="you must use a write token to upload to a repository")

        def _repository(self, repo_id: str) -> _Repository:
            token = self._token()
            repository = hub._repositories.get(repo_id)
            if repository is None or (repository.private and not token):
                # The Hub does not tell a stranger whether a private repository exists
                raise _Refusal(404 if token else 401, "RepoNotFound", "Repository not found")
            return repository

        def _commit(self, repository: _Repository, revision: str) -> str:
            sha = hub._sha(repository, revision)
            if sha is None:
                raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return sha

        # What is answered -------------------------------------------------------------------------------

        def _resolve(self, path: str) -> None:
            """HEAD and GET /user/repo/resolve/revision/file."""
            parts = path.strip("/").split("/")
            if len(parts) < 5 or parts[2] != "resolve":
                raise _Refusal(404, message="no such page")
            repo_id, (revision, filename) = "/".join(parts[:2]), _longest_ref(parts[3:])
            repository = self._repository(repo_id)
            sha = self._commit(repository, revision)
            data = repository.commits[sha].get(filename)
            if data is None:
                raise _Refusal(404, "EntryNotFound", "Entry not found", commit=sha)
            headers = {"ETag": f'"{_blob_id(data)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
            start, status = 0, 200
            wanted = self.headers.get("Range", "")
            if wanted.startswith("bytes=") and wanted.endswith("-"):
                start, status = int(wanted[6:-1]), 206
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                if start >= len(data):
                    raise _Refusal(416, message="range beyond the end")
            keep, silently = hub._truncated.get((repo_id, filename), (len(data), False))
            if silently and self.command == "GET":
                data = data[:keep]
            self._send(status, data[start:], headers, keep_bytes=max(0, keep - start))

        def _api(self, path: str, body: bytes) -> None:
            parts = path.split("/")
            if path == "repos/create":
                self._create(json.loads(body))
            elif path == "validate-yaml":
                self._send_json({"errors": [], "warnings": []})
            elif path == "whoami-v2" and self._token():
                self._send_json({"name": USER, "type": "user", "orgs": []})
            elif parts[0] == "models" and len(parts) >= 3:
                self._model("/".join(parts[1:3]), parts[3] if len(parts) > 3 else "revision", parts[4:], body)
            else:
                raise _Refusal(404, message="no such page")

        def _model(self, repo_id: str, action: str, rest: list[str], body: bytes) -> None:
            if action in ("preupload", "commit"):
                self._need_write()
            repository = self._repository(repo_id)
            if action == "refs":
                refs = [{"name": name, "ref": name, "targetCommit": sha} for name, sha in repository.refs.items()]
                self._send_json({"branches": refs, "tags": [], "converts": []})
                return
            revision = "/".join(rest) or "main"
            if action == "commit":
                self._receive(repo_id, repository, revision, body)
                return
            files = repository.commits[self._commit(repository, revision)]
            if action == "revision":
                siblings = [{"rfilename": name} for name in files]
                model = {"id": repo_id, "modelId": repo_id, "sha": self._commit(repository, revision)}
                self._send_json({**model, "private": repository.private, "tags": [], "siblings": siblings})
            elif action == "tree":
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": _blob_id(data)}
                    for name, data in files.items()
                ]
                self._send_json(entries)
            elif action == "preupload":
                names = [item["path"] for item in json.loads(body)["files"]]
                answer = [
                    {
                        "path": name,
                        "uploadMode": "regular",
                        "shouldIgnore": False,
                        "oid": _blob_id(files[name]) if name in files else None,
                    }
                    for name in names
                ]
                self._send_json({"files": answer})
            else:
                raise _Refusal(404, message="no such page")

        def _create(self, wanted: dict[str, Any]) -> None:
            self._need_write()
            repo_id = f"{wanted.get('organization') or USER}/{wanted['name']}"
            answer = {"url": f"{hub.url}/{repo_id}", "id": repo_id, "name": repo_id}
            if repo_id in hub._repositories:
                self._send_json({**answer, "error": "You already created this model repo"}, 409)
                return
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))  # newer and older clients
            hub.add(repo_id, {}, private=private)
            self._send_json(answer)

        def _receive(self, repo_id: str, repository: _Repository, revision: str, body: bytes) -> None:
            """A commit: one JSON object per line, files as base64."""
            files = dict(repository.commits[self._commit(repository, revision)])
            for line in body.splitlines():
                item = json.loads(line)
                key, value = item["key"], item["value"]
                if key == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif key == "deletedFile":
                    files.pop(value["path"], None)
                elif key == "deletedFolder":
                    files = {name: data for name, data in files.items() if not name.startswith(value["path"])}
                elif key != "header":
                    raise _Refusal(400, message=f"this stand-in does not take {key}")
            sha = hub.add(repo_id, files, revision=revision, private=repository.private)
            self._send_json({"success": True, "commitOid": sha, "commitUrl": f"{hub.url}/{repo_id}/commit/{sha}"})

        # How it is sent ---------------------------------------------------------------------------------

        def _send_json(self, value: Any, status: int = 200) -> None:
            self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, body: bytes, headers: dict[str, str], keep_bytes: int | None = None) -> None:
            self.send_response(status, HTTPStatus(status).phrase)
            for name, value in headers.items():
                if value:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[:keep_bytes])
                self.close_connection = keep_bytes is not None and keep_bytes < len(body)

    return Handler


def _longest_ref(parts: list[str]) -> tuple[str, str]:
    """The revision and the file's path; `refs/pr/1` is the one kind of revision with slashes."""
    cut = 3 if parts[0] == "refs" else 1
    return "/".join(parts[:cut]), "/".join(parts[cut:])


# Pointing the client at it -------------------------------------------------------------------------------


def point_client_at(hub: StandInHub, monkeypatch: pytest.MonkeyPatch, home: Path, *, offline: bool = False) -> None:
    """Make huggingface_hub, in this process, use the stand-in and keep its cache and token in `home`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):  # read at each call
        monkeypatch.delenv(name, raising=False)


def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the client's retries follow at once; returns the list of the seconds it would have slept."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def run_python(
    code: str, hub: StandInHub, home: Path, *, offline: bool = False, token: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run code in a fresh Python whose environment names the stand-in as the Hub and `home` as its cache."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) and not name.lower().endswith("_proxy")
    }
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    if token is not None:
        environment["HF_TOKEN"] = token
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
