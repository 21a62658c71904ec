"""The README's upload with KFP's command, to a server that checks a pipeline as the KFP API server does."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

_ROOT = Path(__file__).parent.parent
_PIPELINE = _ROOT / "compiled/osft_pipeline.yaml"
_UPLOAD = "/apis/v2beta1/pipelines/upload"
_ENDPOINT = "https://kfp.example.com"
_LARGEST_FILE = 32 << 20
_LONGEST_NAME = 128


class _Refused(Exception):
    """Why the server does not take what it is given."""


def _check_file(content: bytes) -> None:
    """What KFP's API server checks in a file (backend/src/apiserver/template/v2_template.go).

    Stricter in two places: the backend passes over a platform document that it cannot read, and with it over
    all Secrets and volumes, and its pattern for the name is not anchored.
    """
    if len(content) > _LARGEST_FILE:
        raise _Refused(f"the file has {len(content)} bytes, more than {_LARGEST_FILE}")
    try:
        documents = [document for document in yaml.safe_load_all(content) if document is not None]
        pipelines = [document for document in documents if "platforms" not in document]
        platforms = [document for document in documents if "platforms" in document]
        if (len(pipelines), len(platforms)) != (1, 1):
            raise _Refused(f"there are {len(pipelines)} pipeline and {len(platforms)} platform documents, not one each")
        pipeline = json_format.ParseDict(pipelines[0], PipelineSpec(), ignore_unknown_fields=False)
        json_format.ParseDict(platforms[0], PlatformSpec(), ignore_unknown_fields=False)
        executors = platforms[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for executor in executors.values():
            json_format.ParseDict(executor, KubernetesExecutorConfig(), ignore_unknown_fields=False)
    except (yaml.YAMLError, json_format.ParseError, LookupError) as error:
        raise _Refused(f"invalid v2 pipeline spec: {error!r}") from error
    if pipeline.schema_version != "2.1.0":
        raise _Refused(f"schema version {pipeline.schema_version!r} is not 2.1.0")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", pipeline.pipeline_info.name):
        raise _Refused(f"the pipeline's name {pipeline.pipeline_info.name!r} is not of a-z, 0-9 and -")
    if not pipeline.HasField("root"):
        raise _Refused("the root component is empty")
    if set(executors) - set(pipeline.deployment_spec["executors"]):
        raise _Refused("the platform document configures executors that the pipeline does not have")


@dataclass
class ApiServer:
    """The part of the KFP API server that takes pipelines, on 127.0.0.1 while it is entered.

    Attributes:
        uploads: name and content of each file that was taken.
        refusals: why others were not.
    """

    uploads: list[tuple[str, bytes]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, address: str, content_type: str, body: bytes) -> dict[str, str]:
        """Checks an upload, keeps it, and returns the pipeline that it has become."""
        target = urlsplit(address)
        if target.path != _UPLOAD:
            raise _Refused(f"there is no POST {target.path}")
        (name,) = parse_qs(target.query).get("name", [""])
        if not 1 <= len(name) <= _LONGEST_NAME:
            raise _Refused(f"the name {name!r} has not 1 to {_LONGEST_NAME} characters")
        form = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
        files = [
            part.get_payload(decode=True)
            for part in (form.get_payload() if form.is_multipart() else [])
            if part.get_param("name", header="content-disposition") == "uploadfile"
        ]
        if len(files) != 1:
            raise _Refused(f"the form has {len(files)} fields uploadfile, not one")
        _check_file(files[0])
        self.uploads.append((name, files[0]))
        return {
            "pipeline_id": str(uuid.uuid4()),
            "name": name,
            "display_name": name,
            "created_at": "2026-11-01T10:00:00Z",
        }


class _Handler(BaseHTTPRequestHandler):
    api: ApiServer

    def do_GET(self) -> None:
        if self.path == "/apis/v2beta1/healthz":
            self._answer(200, {"multi_user": False})
        else:
            self._answer(404, {"error_message": f"there is no GET {self.path}"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            self._answer(200, self.api.take(self.path, self.headers["Content-Type"], body))
        except _Refused as refused:
            self.api.refusals.append(str(refused))
            self._answer(400, {"error_message": str(refused), "error_details": str(refused)})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def api_server():
    with ApiServer() as server:
        yield server


def _upload(server: ApiServer, home: Path, file: Path = _PIPELINE) -> subprocess.CompletedProcess:
    """Runs the README's command in the repository's root, with the endpoint (and the file) exchanged."""
    text = (_ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^```sh\n(kfp .*)\n```$", text, re.MULTILINE)
    program, *arguments = shlex.split(command)
    exchanged = {_ENDPOINT: server.url}
    if file != _PIPELINE:
        exchanged["compiled/osft_pipeline.yaml"] = str(file)
    assert exchanged.keys() <= set(arguments)
    # Nothing of this computer's: KFP reads endpoint, tokens and namespace from variables and from the home.
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    arguments = [exchanged.get(argument, argument) for argument in arguments]
    return subprocess.run(
        [Path(sys.executable).parent / program, *arguments],
        cwd=_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def _edited(edit: Callable[[dict, dict], Any]) -> bytes:
    """The pipeline and the platform document after an edit, which may return others in their place."""
    # The C loader: the stages' sources make the file large.
    documents = list(yaml.load_all(_PIPELINE.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    return yaml.safe_dump_all(edit(*documents) or documents).encode()


def _kubernetes(platform: dict) -> dict:
    """The platform's configuration of one of the executors."""
    return next(iter(platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()))


def test_the_upload_command_of_the_readme_uploads_the_pipeline(api_server: ApiServer, tmp_path: Path):
    done = _upload(api_server, tmp_path)

    assert done.returncode == 0, done.stdout
    assert api_server.uploads == [("osft-pipeline", _PIPELINE.read_bytes())]
    assert "osft-pipeline" in done.stdout


def test_a_pipeline_with_an_unknown_field_is_refused_and_the_command_fails(api_server: ApiServer, tmp_path: Path):
    file = tmp_path / "pipeline.yaml"
    file.write_bytes(_edited(lambda pipeline, platform: pipeline.update(surprise=1)))

    done = _upload(api_server, tmp_path, file)

    assert done.returncode == 1
    assert not api_server.uploads
    (refusal,) = api_server.refusals
    assert "surprise" in refusal
    assert "surprise" in done.stdout


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda pipeline, platform: pipeline["root"].update(surprise=1), "surprise"),
        (lambda pipeline, platform: platform.update(surprise=1), "surprise"),
        (lambda pipeline, platform: _kubernetes(platform).update(surprise=1), "surprise"),
        (lambda pipeline, platform: _kubernetes(platform).update(secretAsEnv="hf-token"), "secretAsEnv"),
        (lambda pipeline, platform: pipeline["pipelineInfo"].update(name="OSFT pipeline"), "OSFT pipeline"),
        (lambda pipeline, platform: pipeline.update(schemaVersion="3.0.0"), "3.0.0"),
        (lambda pipeline, platform: pipeline.pop("root") and None, "root"),
        (lambda pipeline, platform: platform["platforms"].clear(), "kubernetes"),
        (lambda pipeline, platform: [pipeline, pipeline, platform], "2 pipeline and 1 platform"),
        (lambda pipeline, platform: [pipeline, platform, platform], "1 pipeline and 2 platform"),
        (lambda pipeline, platform: [pipeline], "1 pipeline and 0 platform"),
    ],
)
def test_the_server_finds_what_is_wrong_with_a_file(edit, reason):
    with pytest.raises(_Refused, match=reason):
        _check_file(_edited(edit))


def test_the_server_refuses_a_file_that_is_too_large():
    with pytest.raises(_Refused, match="more than 33554432"):
        _check_file(_PIPELINE.read_bytes() + b"#" * _LARGEST_FILE)


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_the_server_refuses_a_name_that_is_missing_or_too_long(name):
    with pytest.raises(_Refused, match="1 to 128 characters"):
        ApiServer().take(f"{_UPLOAD}?name={name}", "multipart/form-data; boundary=x", b"")
