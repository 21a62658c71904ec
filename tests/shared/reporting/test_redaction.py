import subprocess
import sys

import pytest

from kfp_osft.shared.reporting.redaction import redacted, shown


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://host/a/rows.jsonl", "https://host/a/rows.jsonl"),
        ("https://host:8443/@scope/rows.jsonl", "https://host:8443/@scope/rows.jsonl"),
        ("http://[::1]:80/a@b/rows.jsonl", "http://[::1]:80/a@b/rows.jsonl"),
        ("https://user:hunter2@host/rows.jsonl", "https://***@host/rows.jsonl"),
        ("https://hunter2@host", "https://***@host"),
        ("https://user:hunt@er2@host/rows.jsonl", "https://***@host/rows.jsonl"),
        ("https://user:hunt/er2@host/rows.jsonl", "https://***@host/rows.jsonl"),
        ("https://host/rows.jsonl?X-Amz-Signature=hunter2&x=", "https://host/rows.jsonl?X-Amz-Signature=***&x=***"),
        ("https://host/rows.jsonl?hunter2", "https://host/rows.jsonl?***"),
        ("https://host/rows.jsonl#hunter2", "https://host/rows.jsonl"),
        ("https://host?a=hunter2?b=hunter2#hunter2", "https://host?a=***"),
        ("s3://AKIA:hunter2@bucket/key", "s3://***@bucket/key"),
        ("s3://bucket/a=b/key@1.jsonl", "s3://bucket/a=b/key@1.jsonl"),
        ("hf://org/name@main/en", "hf://org/name@main/en"),
        ("hf://name@main", "hf://name@main"),
        ("/path/a?b=c@d.jsonl", "/path/a?b=c@d.jsonl"),
        ("org/name", "org/name"),
        ("org/name:config", "org/name:config"),
        # What a person's slips look like.
        ("https:/user:hunter2@host/x", "https:/***@host/x"),
        (" https://user:hunter2@host/x", " https://***@host/x"),
        ("user:hunter2@host/x", "***@host/x"),
        ("https://host/x;t=hunter2/a", "https://host/x;t=***/a"),
        ("https://user:hunt?er2@host/x", "https://***@host/x"),
        ("https://user:hunt#er2@host/x", "https://***@host/x"),
        ("oci://user:hunter2@registry/x:1", "oci://***@registry/x:1"),
        ("oci://localhost:5000/a/b:1@sha256:ab", "oci://localhost:5000/a/b:1@sha256:ab"),
        ("hf://user:hunter2@org/name", "hf://***@org/name"),
        ("", ""),
    ],
)
def test_a_uri_is_shown_without_what_may_be_secret(uri: str, shown: str):
    assert redacted(uri) == shown


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("GET https://user:hunter2@host/x?a=b failed", "GET https://***@host/x?a=b failed"),
        ('{"dataset_uri": "https://host/x?X-Amz-Signature=hunter2&a=b"}', None),
        ("s3 key canary-of-a-token here", "s3 key *** here"),
        ("robot:canary-of-a-password", "***"),
        ("\x1b]52;c;Zm9v\x07copied \x1b[31mred\x1b[0m\r\n\tline\x00", "copied red\r\n\tline"),
    ],
)
def test_a_text_is_shown_without_secrets_and_terminal_escapes(text: str, seen: str | None, monkeypatch):
    monkeypatch.setenv("GITHUB_PAT", "canary-of-a-token\n")
    # {"auth": base64 of robot:canary-of-a-password}
    config = '{"auths": {"quay.io": {"auth": "cm9ib3Q6Y2FuYXJ5LW9mLWEtcGFzc3dvcmQ="}}}'
    monkeypatch.setenv("OCI_PULL_SECRET_MODEL_DOWNLOAD", config)
    assert shown(text) == (seen or '{"dataset_uri": "https://host/x?X-Amz-Signature=***&a=b"}')


CANARY = "canary-0123456789"
DOORS = {
    "print": "print(canary)",
    "stderr": "import sys; sys.stderr.write(canary)",
    "logging of before": "handler.emit(logging.makeLogRecord({'msg': canary}))",
    "logging": "logging.warning(canary)",
    "warning": "import warnings; warnings.warn(canary)",
    "our error": "from kfp_osft.shared.reporting.errors import InputError; raise InputError(canary)",
    "another error": "raise RuntimeError(canary)",
    "exit": "import sys; sys.exit(canary)",
    "thread": "import threading; threading.Thread(target=lambda: 1 / len(canary[:0]) or print(canary)).start()",
    "log": "from kfp_osft.shared.reporting.log import log; log(canary)",
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_KEY", "DB_PASS"])
def test_no_door_of_a_stage_lets_a_secret_out(door: str, name: str):
    program = (
        "import logging, os, sys\n"
        "handler = logging.StreamHandler(sys.stdout); logging.getLogger('kfp').addHandler(handler)\n"
        "from kfp_osft.shared.reporting.stage import begin_stage; begin_stage()\n"
        f"canary = os.environ[{name!r}].strip()\n{DOORS[door]}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "/usr/bin", name: f"{CANARY}\n"},
        capture_output=True,
        text=True,
    )
    assert CANARY not in done.stdout + done.stderr
    assert "***" in done.stdout + done.stderr or door == "thread"
