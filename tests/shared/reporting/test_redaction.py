import pytest

from kfp_osft.shared.reporting.redaction import redacted


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
        ("", ""),
    ],
)
def test_a_uri_is_shown_without_what_may_be_secret(uri: str, shown: str):
    assert redacted(uri) == shown
