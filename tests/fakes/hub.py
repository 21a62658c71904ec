"""A small local Hugging Face Hub: the API that huggingface_hub 2.4, datasets 5.2 and transformers 5.23 use."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import parse_qs, unquote, urlsplit

from fakes.local_server import LocalServer, QuietHandler

_API = re.compile(
    r"/api/(?P<kind>datasets|models)/(?P<name>[^/]+(?:/[^/]+)?)"
    r"(?:/(?P<what>revision|tree|paths-info|preupload|commit)/(?P<rest>.+))?"
)
_LFS = re.compile(r"/(?P<name>.+)\.git/info/lfs/objects/batch")
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
    """An error response; `code` is the Hub's X-Error-Code."""

    def __init__(self, status: int, code: str) -> None:
        self.status, self.code = status, code


@dataclass
class HubServer(LocalServer):
    """Serves datasets and models on 127.0.0.1 while it is entered.

    Attributes:
        token: gives access to private and gated repositories.
        requests: "METHOD /path" of each request so far.
        broken: requests whose "METHOD /path" contains a match get a 403 (after a 500 the client would retry for half
            a minute).
        on_request: called with the "METHOD /path" of each request before the response.
    """

    token: str = "hf_testtokentesttokentesttoken"
    requests: list[str] = field(default_factory=list)
    broken: re.Pattern[str] | None = None
    on_request: Callable[[str], None] = lambda line: None
    #: Large files by their sha256, as they were uploaded.
    uploaded: dict[str, bytes] = field(default_factory=dict)
    _repositories: dict[tuple[str, str], _Repository] = field(default_factory=dict)

    def handler(self) -> type[QuietHandler]:
        return _Handler

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return self.url

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

        kind: datasets or models. private: seems not to exist without the token. gated: visible but not readable
        without the token.
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
            # Like the Hub, which does not reveal to strangers what exists.
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


class _Handler(QuietHandler):
    site: HubServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        line = f"{self.command} {path}"
        self.site.requests.append(line)
        self.site.on_request(line)
        try:
            if self.site.broken and self.site.broken.search(line):
                raise _Refused(403, "")
            if (found := _API.fullmatch(path)) and found["what"] in ("preupload", "commit"):
                self._write(path, body)
            elif found:
                self._answer_json(
                    self._api(
                        *found.group("kind", "name"),
                        found["what"] or "revision",
                        found["rest"] or "main",
                        parse_qs(url.query),
                        body,
                    )
                )
            elif self.command in ("POST", "PUT") or path == "/api/whoami-v2":
                self._write(path, body)
            elif found := _RESOLVE.fullmatch(path):
                self._resolve("datasets" if found["kind"] else "models", *found.group("name", "revision", "path"))
            else:
                raise _Refused(404, "")
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.code} if refused.code else {}
            self._answer(refused.status, b"", headers)

    do_HEAD = do_POST = do_PUT = do_GET

    def _write(self, path: str, body: bytes) -> None:
        """What a push asks for."""
        if self.headers.get("Authorization") != f"Bearer {self.site.token}" and not path.startswith("/upload/"):
            raise _Refused(401, "")
        if path == "/api/whoami-v2":
            self._answer_json({"type": "user", "name": "somebody"})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if ("models", name) in self.site._repositories:
                self._answer(409, json.dumps({"url": f"{self.site.url}/{name}"}).encode(), {})
                return
            self.site.commit(name, {}, kind="models", private=asked.get("visibility", "private") == "private")
            self._answer_json({"url": f"{self.site.url}/{name}"})
        elif path == "/api/validate-yaml":
            self._answer_json({"errors": [], "warnings": []})
        elif found := _LFS.fullmatch(path):
            self._answer_json(
                {"transfer": "basic", "objects": [self._large(each) for each in json.loads(body)["objects"]]}
            )
        elif path.startswith("/upload/"):
            self.site.uploaded[path.removeprefix("/upload/")] = body
            self._answer(200, b"", {})
        elif found := _API.fullmatch(path):
            _, commit = self.site._find("models", found["name"], "main", self.headers)
            files = self.site._repositories["models", found["name"]].commits[commit]
            if found["what"] == "preupload":
                self._answer_json({"files": [self._upload_mode(each, files) for each in json.loads(body)["files"]]})
            else:
                self._answer_json(
                    self._new_commit(found["name"], files, [json.loads(line) for line in body.splitlines()])
                )
        else:
            raise _Refused(404, "")

    def _large(self, asked: dict) -> dict:
        """An object of Git LFS; without actions where it is there already."""
        upload = {"upload": {"href": f"{self.site.url}/upload/{asked['oid']}"}}
        return {**asked, **({} if asked["oid"] in self.site.uploaded else {"actions": upload})}

    def _upload_mode(self, asked: dict, files: dict[str, bytes]) -> dict:
        is_large = asked["path"].endswith(".safetensors")
        there = files.get(asked["path"])
        oid = None if there is None else hashlib.sha256(there).hexdigest() if is_large else _blob_id(there)
        return {
            "path": asked["path"],
            "uploadMode": "lfs" if is_large else "regular",
            "shouldIgnore": False,
            **({"oid": oid} if oid else {}),
        }

    def _new_commit(self, name: str, files: dict[str, bytes], operations: list[dict]) -> dict:
        files = dict(files)
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.site.uploaded[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        oid = self.site.commit(name, files, kind="models")
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.site.url}/{name}/commit/{oid}"}

    def _api(self, kind: str, name: str, what: str, rest: str, query: dict[str, list[str]], body: bytes) -> object:
        if what == "revision":
            repository, commit = self.site._find(kind, name, rest, self.headers)
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
        files, _ = self.site._files(kind, name, revision, self.headers)
        if what == "paths-info":
            asked = parse_qs(body.decode())["paths"]
            return [entry for entry in _entries(files, "", recursive=True) if entry["path"] in asked]
        entries = _entries(files, folder, query.get("recursive", ["false"])[0].lower() == "true")
        if folder and not entries:
            raise _Refused(404, "EntryNotFound")
        return entries

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        files, commit = self.site._files(kind, name, revision, self.headers)
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


def _entries(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, object]]:
    """The tree API's entries for the files and folders below `folder`."""
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
    """The id of a git blob with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
