import json
import subprocess
import sys

import pytest

from kfp_osft.shared.reporting import redaction
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
        # What could be a port and a path: rather a path hidden than a password shown.
        ("https://user:123/4@host", "https://***@host"),
        ("s3://key:1/2@bucket/rows.jsonl", "s3://***@bucket/rows.jsonl"),
        ("https://user:123/4@host/a@b?x=y", "https://***@b?x=***"),
        ("http://minio:9000/a@b/rows.jsonl", "http://***@b/rows.jsonl"),
        ("http://127.0.0.1:9000/a@b/rows.jsonl", "http://127.0.0.1:9000/a@b/rows.jsonl"),
        ("http://localhost:9000/a@b/rows.jsonl", "http://localhost:9000/a@b/rows.jsonl"),
        ("oci://registry.io:5000/a/b@sha256:ab", "oci://registry.io:5000/a/b@sha256:ab"),
        ("oci://user:12/34@registry.io/a/b@sha256:ab", "oci://***@sha256:ab"),
        ("user:hunt/er2@host:80/x", "***@host:80/x"),
        ("https:\\\\user:hunter2@host\\x", "***@host\\x"),
        ("hf_0123456789abcdefghijABCDEFGHIJ", "***"),
        ("hf://hf_0123456789abcdefghijABCDEFGHIJ@org/name", "hf://***@org/name"),
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
        ("GET https://user:hunt@er/2@host/x failed", "GET https://***@host/x failed"),
        ("at https://hunter2@host/x", "at https://***@host/x"),
        ("oci://registry.io:5000/a/b@sha256:ab: pulled", "oci://registry.io:5000/a/b@sha256:ab: pulled"),
        ("https://host/#access_token=hunter2&a=b", "https://host/#access_token=***&a=b"),
        ("token hf_0123456789abcdefghijABCDEFGHIJ.", "token ***."),
        ("eyJhbGciOiJSUzI1NiIsImtpZCI6.eyJpc3MiOiJrdWJl.c2lnbmF0dXJl-_", "***"),
        ("AKIAIOSFODNN7EXAMPLE and sha256~0123456789abcdefghijABCDEFGHIJ", "*** and ***"),
        ("\x9b31mred\x85 \x1b]0;title\nnext", "31mred \nnext"),
        ("name \u202etxt.exe\u2066", "name txt.exe"),
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


def test_what_a_process_learns_to_be_secret_is_blotted_out_too(monkeypatch):
    monkeypatch.setattr(redaction, "_KEPT", set())
    redaction.keep_secrets_of("https://user:p%40ss-word@host/x?sig=a-signature&version=public")
    redaction.keep_secret("kept-value\n", "short")
    assert shown("p%40ss-word p@ss-word a-signature public kept-value short") == "*** *** *** public *** short"


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


def test_what_kfp_prints_of_a_stages_arguments_shows_no_secret_of_the_tasks_environment():
    program = (
        "import json, sys\nfrom kfp_osft.shared.reporting.stage import begin_stage; begin_stage()\n"
        "print(sys.argv); print(json.dumps(json.loads(sys.argv[2]), indent=4))\n"
    )
    env = [{"name": "DB_PASS", "value": CANARY}, {"name": "COLOR", "value": "red-as-a-rose"}]
    values = {"task_config": {"env": env}, "text": json.dumps({"env": env})}
    done = subprocess.run(
        [sys.executable, "-c", program, "--executor_input", json.dumps({"inputs": {"parameterValues": values}})],
        env={"PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert CANARY not in done.stdout + done.stderr and "red-as-a-rose" in done.stdout


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {}])
def test_what_the_locale_has_no_character_for_is_written_nevertheless(locale: dict[str, str]):
    program = (
        "import logging, os\nfrom kfp_osft.shared.reporting.stage import begin_stage; begin_stage()\n"
        "print('\\xfc', os.fsdecode(b'\\xff.jsonl')); logging.warning('\\u20ac \\ud83d')\n"
        "from kfp_osft.shared.reporting.errors import InputError; raise InputError('caf\\xe9 \\udcff')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env={"PATH": "/usr/bin", **locale}, capture_output=True)
    said = (done.stdout + done.stderr).decode("utf-8")
    assert "Traceback" not in said and "UnicodeEncodeError" not in said
    assert "\\udcff.jsonl" in said and "Error: caf" in said and "Stage failed" in said
