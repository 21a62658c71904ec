import contextlib
import gzip
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme

from fakes.http import File, HttpFileServer
from helpers.killed_resolve import resolve_in_a_process
from helpers.question_rows import files_in, jsonl, questions
from helpers.resolving import fetched, refusal
from kfp_osft.shared.reporting import redaction
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.redaction import shown
from kfp_osft.stages.resolve_dataset import http
from kfp_osft.stages.resolve_dataset.served_file import served_file
from kfp_osft.stages.resolve_dataset.source import resolve

YESTERDAY = "Sat, 21 Nov 2020 10:00:00 GMT"
#: Some pieces of the server's and of the client's, in rows that all differ.
MANY = jsonl(*(f"question {number}" for number in range(20_000)))
LIMIT = "OSFT_MAX_DOWNLOAD_GIB"


@pytest.fixture
def site() -> Iterator[HttpFileServer]:
    with HttpFileServer() as server:
        yield server


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.01)


def bodies_sent(site: HttpFileServer) -> list[str]:
    """Range and status of the answers so far."""
    return [f"{asked} {status}".strip() for _, asked, status in site.requests]


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_file_is_fetched_with_its_name(site: HttpFileServer, pvc: Path, framing: str):
    site.files["/data/rows.jsonl"] = File(MANY, framing=framing)

    path = fetched(f"{site.url}/data/rows.jsonl", pvc)

    assert path.is_relative_to(pvc / "datasets") and path.name == "rows.jsonl"
    assert path.read_bytes() == MANY
    assert files_in(pvc) == {path, path.parent / ".manifest.json"}


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("/download?id=7", {"Content-Disposition": 'attachment; filename="rows.jsonl"'}),
        ("/a%20b/rows.jsonl?raw=true", {}),
        ("/rows.jsonl", {"Content-Disposition": 'attachment; filename="export"'}),
    ],
)
def test_the_name_is_the_first_with_a_data_extension(site: HttpFileServer, pvc: Path, address: str, headers: dict):
    site.files[address.partition("?")[0]] = File(jsonl("a"), headers=headers)

    assert fetched(site.url + address, pvc).name == "rows.jsonl"


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}])
@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl", "rows"])
def test_what_comes_packed_is_read_whatever_it_is_called(site: HttpFileServer, pvc: Path, name: str, headers: dict):
    site.files[f"/{name}"] = File(gzip.compress(jsonl("a", "b")), headers=headers)

    assert resolve(f"{site.url}/{name}", "train", str(pvc), None).num_rows == 2


def test_redirects_are_followed_to_another_server(site: HttpFileServer, pvc: Path):
    with HttpFileServer({"/blob/0123/rows.jsonl": File(jsonl("a"))}) as other:
        site.files["/latest"] = File(b"", status=302, headers={"Location": "/version"})
        site.files["/version"] = File(b"", status=307, headers={"Location": f"{other.url}/blob/0123/rows.jsonl"})

        assert questions(fetched(f"{site.url}/latest", pvc)) == ["a"]


def test_the_metadata_of_an_artifact_may_name_a_url(
    site: HttpFileServer, pvc: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    site.files["/rows.jsonl"] = File(jsonl("a", "b"))
    metadata = {"artifact_path": f"{site.url}/rows.jsonl?signature=hunter2"}
    artifact = SimpleNamespace(path=str(tmp_path / "nothing"), uri="", metadata=metadata)

    assert resolve("", "train", str(pvc), artifact).num_rows == 2
    shown = capsys.readouterr().out
    assert f"its metadata gives artifact_path={site.url}/rows.jsonl?signature=***" in shown and "hunter2" not in shown


# Again


@pytest.mark.parametrize(
    "file",
    [File(MANY), File(MANY, etag="", last_modified=YESTERDAY), File(MANY, etag='W/"1"')],
    ids=["etag", "time", "weak etag"],
)
def test_an_unchanged_file_is_not_fetched_again(site: HttpFileServer, pvc: Path, file: File):
    site.files["/rows.jsonl"] = file
    first = fetched(f"{site.url}/rows.jsonl", pvc)
    changes = {path: path.stat().st_mtime_ns for path in files_in(pvc)}

    assert fetched(f"{site.url}/rows.jsonl", pvc) == first
    assert {path: path.stat().st_mtime_ns for path in files_in(pvc)} == changes
    assert len(site.requests) == 2


def test_a_new_signature_of_the_same_link_fetches_nothing_again(site: HttpFileServer, pvc: Path):
    site.files["/rows.jsonl"] = File(jsonl("a"))

    paths = {
        fetched(f"{site.url}/rows.jsonl?X-Amz-Date={day}&X-Amz-Signature={day}&token={day}", pvc)
        for day in ("monday", "tuesday")
    }
    other = fetched(f"{site.url}/rows.jsonl?version=2", pvc)

    assert len(paths) == 1 and other not in paths


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # As long as before, to the byte.
        (File(jsonl("a")), File(jsonl("b"))),
        (File(jsonl("a"), etag='"1"'), File(jsonl("b"), etag='"2"')),
        (
            File(jsonl("a"), etag="", last_modified=YESTERDAY),
            File(jsonl("b"), etag="", last_modified="Sat, 21 Nov 2020 10:00:01 GMT"),
        ),
        (File(jsonl("a"), etag="", last_modified=YESTERDAY), File(jsonl("bb"), etag="", last_modified=YESTERDAY)),
        # Nothing tells that it has changed.
        (File(jsonl("a"), etag=""), File(jsonl("b"), etag="")),
        (File(jsonl("a"), etag="", framing="chunked"), File(jsonl("b"), etag="", framing="chunked")),
    ],
    ids=["content", "etag", "time", "size", "no version", "no version, no size"],
)
def test_a_changed_file_is_fetched_again(site: HttpFileServer, pvc: Path, old: File, new: File):
    site.files["/rows.jsonl"] = old
    before = fetched(f"{site.url}/rows.jsonl", pvc)
    site.files["/rows.jsonl"] = new
    after = fetched(f"{site.url}/rows.jsonl", pvc)

    assert (questions(before)[0], questions(after)[0][:1]) == ("a", "b")


def test_the_same_bytes_of_a_server_without_versions_are_kept_once(site: HttpFileServer, pvc: Path):
    site.files["/rows.jsonl"] = File(jsonl("a"), etag="")

    assert fetched(f"{site.url}/rows.jsonl", pvc) == fetched(f"{site.url}/rows.jsonl", pvc)
    assert len(files_in(pvc)) == 2


def test_an_earlier_copy_is_not_taken_when_the_server_cannot_be_asked(pvc: Path):
    with HttpFileServer({"/rows.jsonl": File(jsonl("a"))}) as site:
        url = f"{site.url}/rows.jsonl"
        fetched(url, pvc)

    assert refusal(url, pvc) == f"dataset_uri={url}: cannot be reached: Connection refused (tried 5 times)"


# Cuts


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("version", [{}, {"etag": "", "last_modified": YESTERDAY}], ids=["etag", "time"])
def test_a_cut_download_goes_on_where_it_was(site: HttpFileServer, pvc: Path, version: dict, framing: str):
    site.files["/rows.jsonl"] = File(
        MANY, cuts=[500_000, None if framing == "chunked" else 900_000], framing=framing, **version
    )

    assert fetched(f"{site.url}/rows.jsonl", pvc).read_bytes() == MANY
    assert all(re.fullmatch(r"bytes=\d+- 206", answer) for answer in bodies_sent(site)[1:])
    assert len(site.requests) == (2 if framing == "chunked" else 3)


@pytest.mark.parametrize(
    "file",
    [
        File(MANY, ranges=False, cuts=[500_000]),
        File(MANY, etag="", cuts=[500_000]),
        File(MANY, etag='W/"1"', cuts=[500_000]),
    ],
    ids=["no ranges", "no version", "weak etag"],
)
def test_a_cut_download_begins_anew_where_the_server_cannot_go_on(site: HttpFileServer, pvc: Path, file: File):
    site.files["/rows.jsonl"] = file

    assert fetched(f"{site.url}/rows.jsonl", pvc).read_bytes() == MANY
    assert [status for _, _, status in site.requests] == [200, 200]


def test_a_file_that_changes_while_it_is_fetched_is_fetched_whole(site: HttpFileServer, pvc: Path):
    new = MANY.replace(b"question", b"QUESTION")
    site.files["/rows.jsonl"] = File(MANY, cuts=[500_000])

    def change(path: str, begin: int) -> None:
        if begin > 400_000:
            site.files["/rows.jsonl"] = File(new)

    site.on_piece = change

    assert fetched(f"{site.url}/rows.jsonl", pvc).read_bytes() == new


def test_a_server_that_is_out_of_order_for_a_moment_is_asked_again(site: HttpFileServer, pvc: Path):
    site.files["/rows.jsonl"] = File(jsonl("a"), failures=3)

    assert questions(fetched(f"{site.url}/rows.jsonl", pvc)) == ["a"]
    assert [status for _, _, status in site.requests] == [503, 503, 503, 200]


@pytest.mark.parametrize("cut", [0, 200_000])
def test_a_download_that_gets_nowhere_leaves_nothing_that_is_trusted(site: HttpFileServer, pvc: Path, cut: int):
    site.files["/rows.jsonl"] = File(MANY, cuts=[cut, *[0] * 9])

    assert re.fullmatch(
        rf"dataset_uri={site.url}/rows\.jsonl: was cut off at [\d.]+ \w+ 5 times: "
        r"(the connection was closed early|Connection reset by peer)",
        refusal(f"{site.url}/rows.jsonl", pvc),
    )
    assert not list(pvc.rglob(".manifest.json"))
    # What is there is gone on with, and the file is whole.
    site.files["/rows.jsonl"].cuts.clear()
    assert fetched(f"{site.url}/rows.jsonl", pvc).read_bytes() == MANY


@pytest.mark.slow
def test_a_killed_download_is_gone_on_with_and_gives_the_same_bytes(site: HttpFileServer, pvc: Path, tmp_path: Path):
    site.files["/rows.jsonl"] = File(MANY)
    url = f"{site.url}/rows.jsonl"
    undisturbed = fetched(url, tmp_path / "other")
    site.requests.clear()

    for point in (1, 1_000_000, 2_000_000, "publishing", "renaming"):
        assert resolve_in_a_process(url, pvc, point) is None
        assert not [path for path in pvc.rglob("*.json*") if path.parent.name.startswith("http-")], point
    path = resolve_in_a_process(url, pvc)

    assert path.relative_to(pvc) == undisturbed.relative_to(tmp_path / "other")
    assert path.read_bytes() == undisturbed.read_bytes() == MANY
    assert any(status == 206 for _, _, status in site.requests)


# Errors

SAID = "dataset_uri={url}: "
EXTENSIONS = ".jsonl, .ndjson, .json, .parquet, .csv, .arrow, each also with .gz or .zst"


@pytest.mark.parametrize(
    ("address", "file", "message"),
    [
        ("/rows.jsonl", None, "there is nothing at this URL (404 Not Found)"),
        ("/rows.jsonl", File(b"", status=410), "there is nothing at this URL (410 Gone)"),
        (
            "/rows.jsonl",
            File(b"", status=403),
            "the server refuses it (403 Forbidden); a signed link may have expired; "
            "put files that need a login on S3 or the PVC",
        ),
        ("/rows.jsonl", File(b"", status=401), "the server refuses it (401 Unauthorized); a signed link may"),
        ("/rows.jsonl", File(b"", status=418), "the server answers 418 I'm a Teapot"),
        ("/rows.jsonl", File(b"", status=500), "the server answers 500 Internal Server Error (tried 5 times)"),
        (
            "/rows.jsonl",
            File(b"", status=429, headers={"Retry-After": "0"}),
            "the server answers 429 Too Many Requests (tried 5 times)",
        ),
        ("/rows.jsonl", File(b"", status=204), "the server answers 204 No Content instead of a file"),
        ("/rows.jsonl", File(b""), "the file is empty"),
        (
            "/rows.jsonl",
            File(jsonl("a"), framing="close"),
            "the server does not say how long the file is, so a truncated download would go unnoticed; "
            "put it on S3 or the PVC",
        ),
        (
            "/rows.jsonl",
            File(jsonl("a"), headers={"Content-Encoding": "br"}),
            "the server compresses it as br, although it was asked not to",
        ),
        ("/rows.zip", File(b"PK"), f"its extension .zip is not one of {EXTENSIONS}"),
        (
            "/rows.jsonl",
            File(b"<html>", headers={"Content-Type": "text/html; charset=utf-8"}),
            "the server answers with a web page, not with a file of rows",
        ),
        ("/rows.jsonl", File(b"", status=302, headers={"Location": "/rows.jsonl"}), "is redirected more than 10 times"),
        (
            "/rows.jsonl",
            File(b"", status=302, headers={"Location": "file:///etc/passwd"}),
            "is redirected to a URL that is not http(s)://",
        ),
        (
            "/rows.jsonl",
            File(b"", headers={"Content-Length": str(49 << 40)}),
            "has 49.0 TiB, more than OSFT_MAX_DOWNLOAD_GIB allows (50.0 GiB); set OSFT_MAX_DOWNLOAD_GIB higher in the "
            "environment of resolve_dataset",
        ),
    ],
)
def test_a_file_that_cannot_be_had_is_told_and_leaves_nothing(
    site: HttpFileServer, pvc: Path, address: str, file: File | None, message: str
):
    if file:
        site.files[address] = file

    url = site.url + address
    assert refusal(url, pvc).startswith(SAID.format(url=url) + message)
    assert not files_in(pvc)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://no-such-host.invalid/rows.jsonl", "cannot be reached: its host name cannot be resolved"),
        ("http://127.0.0.1:port/rows.jsonl", "is not a URL"),
        ("http://[::1/rows.jsonl", "is not a URL"),
        ("https:///rows.jsonl", "is not a URL"),
    ],
)
def test_a_url_that_leads_nowhere_is_told(pvc: Path, url: str, message: str):
    assert refusal(url, pvc) == SAID.format(url=url) + message


def test_a_page_of_the_hub_is_told_how_to_write_it():
    response = type("Response", (), {"status_code": 200, "headers": {"Content-Type": "text/html"}})()

    with pytest.raises(InputError, match=r"a web page, not with a file of rows; the dataset is hf://org/name$"):
        served_file("https://huggingface.co/datasets/org/name", "dataset_uri=x", response)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    return trustme.CA()


def test_a_certificate_that_is_not_trusted_is_told_and_one_that_is_opens(
    authority: trustme.CA, pvc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    certificate, trusted = tmp_path / "server.pem", tmp_path / "ca.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(trusted)
    with HttpFileServer({"/rows.jsonl": File(jsonl("a"))}, certificate=str(certificate)) as site:
        url = f"{site.url}/rows.jsonl"
        assert refusal(url, pvc) == SAID.format(url=url) + (
            "cannot be reached: TLS failed: its certificate is not trusted (unable to get local issuer certificate); "
            "set OSFT_CA_BUNDLE to the PEM file of the authority that signed it"
        )
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
        assert questions(fetched(url, pvc)) == ["a"]


def test_the_limit_can_be_raised_and_holds_where_no_size_is_told(
    site: HttpFileServer, pvc: Path, monkeypatch: pytest.MonkeyPatch
):
    site.files["/rows.jsonl"] = File(MANY, framing="chunked")
    monkeypatch.setenv(LIMIT, str(100_000 / 2**30))
    assert refusal(f"{site.url}/rows.jsonl", pvc).endswith(
        "more than OSFT_MAX_DOWNLOAD_GIB allows (97.7 KiB); set OSFT_MAX_DOWNLOAD_GIB higher in the environment of "
        "resolve_dataset"
    )
    assert not list(pvc.rglob(".manifest.json"))

    monkeypatch.setenv(LIMIT, "0.01")
    assert fetched(f"{site.url}/rows.jsonl", pvc).read_bytes() == MANY


@pytest.mark.parametrize("limit", ["0", "-1", "x", "nan", "inf", "10GiB"])
def test_a_limit_that_is_no_number_is_told(pvc: Path, monkeypatch: pytest.MonkeyPatch, limit: str):
    monkeypatch.setenv(LIMIT, limit)

    assert refusal("http://127.0.0.1/rows.jsonl", pvc) == (
        f"OSFT_MAX_DOWNLOAD_GIB={limit} in the environment is not allowed; allowed: GiB as a number above 0"
    )


def test_a_file_that_does_not_fit_on_the_disk_is_refused_before_it_is_fetched(
    site: HttpFileServer, pvc: Path, monkeypatch: pytest.MonkeyPatch
):
    site.files["/rows.jsonl"] = File(b"", headers={"Content-Length": str(49 << 40)})
    monkeypatch.setenv(LIMIT, "100000")

    url = f"{site.url}/rows.jsonl"
    refused = re.escape(f"{SAID.format(url=url)}needs 49.0 TiB, but pvc_path={pvc} has ")
    assert re.fullmatch(refused + r"[\d.]+ .iB free", refusal(url, pvc))


def test_no_secret_of_a_url_is_shown_or_written(site: HttpFileServer, pvc: Path, capfd: pytest.CaptureFixture):
    site.files["/rows.jsonl"] = File(MANY, cuts=[100_000])
    host = site.url.removeprefix("http://")
    url = f"http://user:hunter2@{host}/rows.jsonl?X-Amz-Signature=hunter2&x=hunter2"
    fetched(url, pvc)
    shown = [*capfd.readouterr(), refusal(url.replace("rows", "no"), pvc)]
    site.files["/rows.jsonl"] = File(MANY, etag='"2"', cuts=[0] * 9)
    shown += [refusal(url, pvc), refusal(url.replace(host, "no-such-host.invalid"), pvc), *capfd.readouterr()]

    assert f"http://***@{host}/rows.jsonl?X-Amz-Signature=***&x=***" in shown[0]
    assert "hunter2" not in "".join(shown)
    assert not [path for path in pvc.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


def test_a_server_that_sends_a_byte_now_and_then_has_an_end(
    site: HttpFileServer, pvc: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(http, "_SECONDS_OF_SLOWNESS", 0.5)
    site.files["/rows.jsonl"] = File(MANY, seconds_a_byte=0.05)
    error = refusal(f"{site.url}/rows.jsonl", pvc)
    assert "the server sends less than 1.0 KiB a second" in error
    assert not list((pvc / "datasets").glob("http-*"))


def test_a_reason_phrase_sets_no_clipboard_and_repeats_no_password(
    site: HttpFileServer, pvc: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(redaction, "_KEPT", set())
    site.reason = "\x1b]52;c;Zm9v\x07no robot:canary-password sig canary-signature"
    host = site.url.removeprefix("http://")
    error = refusal(f"http://robot:canary-password@{host}/rows.jsonl?sig=canary-signature", pvc)
    said = shown(error)
    assert "there is nothing at this URL (404 no robot:*** sig ***)" in said and "\x1b" not in said


def test_a_server_whose_headers_never_end_has_an_end(pvc: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "_SECONDS_TO_ANSWER", 0.3)
    monkeypatch.setattr(http, "_TRIES", 2)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            while not over.is_set():
                connection, _ = server.accept()
                with contextlib.suppress(OSError), connection:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Endless: ")
                    while not over.wait(0.05):
                        connection.sendall(b"x")

        threading.Thread(target=drip, daemon=True).start()
        error = refusal(f"http://127.0.0.1:{server.getsockname()[1]}/rows.jsonl", pvc)
        over.set()
    assert "cannot be reached: no answer in time (tried 2 times)" in error
