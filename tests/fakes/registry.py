"""A real OCI registry (docker-registry), images to push to it, and a proxy that disturbs pulls."""

import base64
import hashlib
import http.client
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import tarfile
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
ARTIFACT_CONFIG = "application/vnd.oci.empty.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TAR = "application/vnd.oci.image.layer.v1.tar"
TITLE = "org.opencontainers.image.title"

USER, PASSWORD = "puller", "correct-horse-battery"
# bcrypt, the only hash that docker-registry supports, at the lowest cost.
_HTPASSWD = f"{USER}:$2b$04$7YfETXdz/XQK6fCBk959s.DfnORu7UE95Xy6kz6Ve5Wjg3HW8Yu2a\n"

PROGRAMS = ("docker-registry", "skopeo")


def missing_programs() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program) is None]


def docker_config(host: str, password: str = PASSWORD, **entry: str) -> str:
    """The content of a Docker config.json with one entry: `entry`, or else user and password as `auth`."""
    auth = {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}
    return json.dumps({"auths": {host: entry or auth}})


def tar(files: Mapping[str, bytes | tarfile.TarInfo], compression: str = "") -> bytes:
    """A tar of files by name; a TarInfo is added as it is, without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    if not compression:
        return buffer.getvalue()
    import pyarrow

    return pyarrow.compress(buffer.getvalue(), codec=compression, asbytes=True)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


class Layout:
    """An OCI image layout in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, content: bytes, media_type: str, **fields: Any) -> dict[str, Any]:
        """Writes a blob and returns its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / "blobs" / "sha256" / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content), **fields}

    def tar(self, files: Mapping[str, bytes | tarfile.TarInfo], compression: str = "", **fields: Any) -> dict[str, Any]:
        return self.blob(tar(files, compression), TAR + (f"+{compression}" if compression else ""), **fields)

    def file(self, name: str, content: bytes, media_type: str = TAR) -> dict[str, Any]:
        """A file as ORAS pushes it."""
        return self.blob(content, media_type, annotations={TITLE: name})

    def image(self, layers: Sequence[dict], config: str = IMAGE_CONFIG, **fields: Any) -> dict[str, Any]:
        described = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "layers": list(layers),
            "config": self.blob(json.dumps(described if config == IMAGE_CONFIG else {}).encode(), config),
        }
        return self.blob(json.dumps(manifest).encode(), MANIFEST, **fields)

    def index(self, images: Sequence[dict]) -> dict[str, Any]:
        return self.blob(
            json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(images)}).encode(), INDEX
        )


class Registry:
    """docker-registry on a free port of this computer."""

    def __init__(self, folder: Path, auth: bool = False, certificate: tuple[Path, Path] | None = None) -> None:
        self.folder, self._auth, self._certificate = folder, auth, certificate
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Registry":
        self.folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "store")}},
            "http": {"addr": f"0.0.0.0:{self.port}" if self._certificate else self.host, "secret": "of the tests"},
        }
        if self._auth:
            (self.folder / "htpasswd").write_text(_HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(self.folder / "htpasswd")}}
        if self._certificate:
            config["http"]["tls"] = dict(zip(("certificate", "key"), map(str, self._certificate), strict=True))
        # JSON is valid YAML.
        (self.folder / "config.yml").write_text(json.dumps(config))
        with (self.folder / "log").open("wb") as log:
            # It takes REGISTRY_X for its setting X, while skopeo reads its logins from REGISTRY_AUTH_FILE.
            environment = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(self.folder / "config.yml")], stdout=log, stderr=log, env=environment
            )
        for _ in range(200):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        raise AssertionError(f"docker-registry did not start: {(self.folder / 'log').read_text()}")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def push(self, layout: Layout, top: dict[str, Any], repository: str, tag: str = "1") -> str:
        """Pushes what the descriptor names with skopeo, byte for byte; returns the oci:// reference."""
        index = {
            "schemaVersion": 2,
            "manifests": [{**top, "annotations": {"org.opencontainers.image.ref.name": "pushed"}}],
        }
        (layout.folder / "index.json").write_text(json.dumps(index))
        credentials = [f"--dest-creds={USER}:{PASSWORD}"] if self._auth else []
        subprocess.run(
            [
                "skopeo",
                "copy",
                "--quiet",
                "--all",
                "--preserve-digests",
                "--dest-tls-verify=false",
                *credentials,
                f"oci:{layout.folder}:pushed",
                f"docker://{self.host}/{repository}:{tag}",
            ],
            check=True,
            capture_output=True,
        )
        return f"oci://{self.host}/{repository}:{tag}"

    def put_manifest(self, manifest: Mapping[str, Any], repository: str, tag: str = "1") -> str:
        """Uploads a manifest that skopeo would not push."""
        connection = http.client.HTTPConnection(self.host)
        connection.request(
            "PUT", f"/v2/{repository}/manifests/{tag}", json.dumps(manifest), {"Content-Type": manifest["mediaType"]}
        )
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
        return f"oci://{self.host}/{repository}:{tag}"

    def stored(self, digest: str) -> Path:
        """The file in which the registry keeps a blob."""
        digits = digest.removeprefix("sha256:")
        return self.folder / f"store/docker/registry/v2/blobs/sha256/{digits[:2]}/{digits}/data"


class Gate(ThreadingHTTPServer):
    """A proxy in front of a registry that disturbs pulls.

    Attributes:
        cuts: for how many of the next blobs the connection is closed halfway.
        statuses: HTTP status of the responses to the next requests for blobs.
        hang: whether blobs stop halfway, with the connection open.
        bytes_per_second: speed of each blob, 0 for unlimited.
        manifest: the response to every request for a manifest; None for the registry's own.
        refresh_token: if set, Docker's token authentication with this identity token is required.
        asked: how often each blob was requested, by digest.
    """

    daemon_threads = True

    def __init__(self, registry: Registry) -> None:
        super().__init__(("127.0.0.1", 0), _GateHandler)
        self.registry = registry
        self.host = f"127.0.0.1:{self.server_port}"
        self.cuts, self.statuses, self.hang, self.bytes_per_second = 0, [], False, 0
        self.manifest: str | None = None
        self.refresh_token: str | None = None
        self.bearer_token = secrets.token_hex(16)
        self.asked: Counter[str] = Counter()

    def __enter__(self) -> "Gate":
        threading.Thread(target=self.serve_forever, args=[0.05], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def through(self, reference: str) -> str:
        """The same reference through this gate."""
        return reference.replace(self.registry.host, self.host)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that disconnect are part of some tests."""


class _GateHandler(BaseHTTPRequestHandler):
    server: Gate
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        # skopeo sends the form in chunks; the last one is empty.
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size + 2)[:size]
        self.rfile.readline()
        form = urllib.parse.parse_qs(body.decode())
        right = form.get("grant_type") == ["refresh_token"] and form.get("refresh_token") == [self.server.refresh_token]
        self._answer(200 if right else 401, json.dumps({"access_token": self.server.bearer_token}) if right else "{}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        gate = self.server
        if gate.refresh_token and self.headers["Authorization"] != f"Bearer {gate.bearer_token}":
            self._answer(401, "{}", ("WWW-Authenticate", f'Bearer realm="http://{gate.host}/token",service="tests"'))
            return
        if gate.manifest is not None and "/manifests/" in self.path:
            self._answer(200, gate.manifest, ("Content-Type", MANIFEST))
            return
        is_blob = "/blobs/" in self.path
        if is_blob and self.command == "GET":
            gate.asked[self.path.rpartition("/")[2]] += 1
            if gate.statuses:
                self._answer(gate.statuses.pop(0), "{}")
                return
        connection = http.client.HTTPConnection(gate.registry.host)
        connection.putrequest(self.command, self.path, skip_accept_encoding=True)
        for name, value in self.headers.items():
            # skopeo repeats Accept for each kind of manifest.
            if name in ("Accept", "Range", "User-Agent"):
                connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name in ("Content-Type", "Content-Length", "Content-Range", "Docker-Content-Digest"):
                self.send_header(name, value)
        self.end_headers()
        size = int(answer.headers["Content-Length"] or 0)
        stop = size
        # Small blobs, such as the config, pass undisturbed.
        if is_blob and size > 1000 and (gate.hang or gate.cuts):
            gate.cuts -= not gate.hang
            stop = size // 2
        sent = 0
        while (
            self.command == "GET"
            and sent < stop
            and (part := answer.read(min(stop - sent, gate.bytes_per_second // 20 or 1 << 16)))
        ):
            self.wfile.write(part)
            sent += len(part)
            if is_blob and gate.bytes_per_second:
                time.sleep(0.05)
        if stop < size:
            if gate.hang:
                self.wfile.flush()
                time.sleep(60)
            self.close_connection = True

    def _answer(self, status: int, body: str, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        fields = {"Content-Length": str(len(body)), "Content-Type": "application/json", **dict(headers)}
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())
