"""A small Hugging Face Hub on this computer.

It answers what huggingface_hub 2.4, datasets 5.2 and transformers 5.23 ask of it.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(
    r"/api/(?P<kind>datasets|models)/(?P<name>[^/]+(?:/[^/]+)?)"
    r"(?:/(?P<what>revision|tree|paths-info)/(?P<rest>.+))?"
)
_RESOLVE = re.compile(
    r"/(?P<kind>datasets/)?(?P<name>[^/]+(?:/[^/]+)?)"
    r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
)


@dataclass
class _Repository:
    revisions: dict[str, str]
    commits: dict[str, dict[str, bytes]]
    private: bool
    gated: bool


class _Refused(Exception):
    """An answer that is no success; `code` is the Hub's X-Error-Code."""

    def __init__(self, status: int, code: str) -> None:
        self.status, self.code = status, code


@dataclass
class HubServer:
    """Serves datasets and models on 127.0.0.1 while it is entered.

    Attributes:
        token: opens what is private or gated.
        requests: "METHOD /path" of each request so far.
        broken: requests whose "METHOD /path" it is found in are answered with 403 (after a 500 the client
            would try again for half a minute).
        on_request: is called with the "METHOD /path" of each request before it is answered.
    """

    token: str = "hf_testtokentesttokentesttoken"
    requests: list[str] = field(default_factory=list)
    broken: re.Pattern[str] | None = None
    on_request: Callable[[str], None] = lambda line: None
    _repositories: dict[tuple[str, str], _Repository] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def commit(
        self,
        name: str,
        files: dict[str, bytes],
        revision: str = "main",
        *,
        kind: str = "datasets",
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Makes these files the whole content of a repository at `revision`; returns the commit's hash.

        kind: datasets or models. private: without the token, as if it was not there. gated: without the
        token, to be seen but not to be read.
        """
        repository = self._repositories.setdefault((kind, name), _Repository({}, {}, private, gated))
        listing = "".join(f"{path} {_blob_id(content)}\n" for path, content in sorted(files.items()))
        commit = hashlib.sha1(f"{name} {len(repository.commits)}\n{listing}".encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.revisions[revision] = commit
        return commit

    def _find(self, kind: str, name: str, revision: str, headers: Message) -> tuple[_Repository, str]:
        known = headers.get("Authorization") == f"Bearer {self.token}"
        repository = self._repositories.get((kind, name))
        if repository is None or (repository.private and not known):
            # As the Hub: a stranger is not told what there is.
            raise _Refused(404 if known else 401, "RepoNotFound")
        commit = repository.revisions.get(revision, revision)
        if commit not in repository.commits:
            raise _Refused(404, "RevisionNotFound")
        return repository, commit

    def _files(self, kind: str, name: str, revision: str, headers: Message) -> tuple[dict[str, bytes], str]:
        repository, commit = self._find(kind, name, revision, headers)
        if repository.gated and headers.get("Authorization") != f"Bearer {self.token}":
            raise _Refused(403 if "Authorization" in headers else 401, "GatedRepo")
        return repository.commits[commit], commit


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        line = f"{self.command} {path}"
        self.hub.requests.append(line)
        self.hub.on_request(line)
        try:
            if self.hub.broken and self.hub.broken.search(line):
                raise _Refused(403, "")
            if found := _API.fullmatch(path):
                self._answer_json(
                    self._api(
                        *found.group("kind", "name"),
                        found["what"] or "revision",
                        found["rest"] or "main",
                        parse_qs(url.query),
                        body,
                    )
                )
            elif found := _RESOLVE.fullmatch(path):
                self._resolve("datasets" if found["kind"] else "models", *found.group("name", "revision", "path"))
            else:
                raise _Refused(404, "")
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.code} if refused.code else {}
            self._answer(refused.status, b"", headers)

    do_HEAD = do_POST = do_GET

    def _api(self, kind: str, name: str, what: str, rest: str, query: dict[str, list[str]], body: bytes) -> object:
        if what == "revision":
            repository, commit = self.hub._find(kind, name, rest, self.headers)
            return {
                "id": name,
                "sha": commit,
                "private": repository.private,
                "gated": "auto" if repository.gated else False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": path} for path in repository.commits[commit]],
            }
        revision, _, folder = rest.partition("/")
        files, _ = self.hub._files(kind, name, revision, self.headers)
        if what == "paths-info":
            asked = parse_qs(body.decode())["paths"]
            return [entry for entry in _entries(files, "", recursive=True) if entry["path"] in asked]
        entries = _entries(files, folder, query.get("recursive", ["false"])[0].lower() == "true")
        if folder and not entries:
            raise _Refused(404, "EntryNotFound")
        return entries

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        files, commit = self.hub._files(kind, name, revision, self.headers)
        if path not in files:
            raise _Refused(404, "EntryNotFound")
        content = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_blob_id(content)}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self._answer(200, content, headers)
            return
        begin, end = int(wanted[1]), min(int(wanted[2] or len(content)) + 1, len(content))
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
        self._answer(206, content[begin:end], headers)

    def _answer_json(self, content: object) -> None:
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *message: object) -> None:
        pass


def _entries(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, object]]:
    """What the tree API says of the files and folders below `folder`."""
    inside = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, object]] = {}
    for path, content in sorted(files.items()):
        if not path.startswith(inside):
            continue
        parents = path.removeprefix(inside).split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            parent = inside + "/".join(parents[:depth])
            entries.setdefault(parent, {"type": "directory", "path": parent, "size": 0, "oid": _blob_id(b"")})
            if not recursive:
                break
        if recursive or not parents:
            entries[path] = {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}
    return list(entries.values())


def _blob_id(content: bytes) -> str:
    """git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
