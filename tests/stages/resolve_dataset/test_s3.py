import gzip
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from fakes.http import HttpFileServer
from fakes.local_server import LocalServer, QuietHandler
from fakes.s3 import S3Server
from helpers.killed_resolve import resolve_in_a_process
from helpers.question_rows import files_in, jsonl, questions
from helpers.resolving import fetched, refusal
from kfp_osft.shared.files import downloads
from kfp_osft.shared.reporting import progress
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.s3 import fetching
from kfp_osft.stages.resolve_dataset.source import resolve

pytestmark = pytest.mark.usefixtures("store")

#: Several parts of what is fetched at once, in rows that all differ.
MANY = jsonl(*(f"question {number}" for number in range(40_000)))
_NUMBERS = itertools.count()


@pytest.fixture
def bucket() -> str:
    """A bucket's name that no other test uses."""
    return f"rows-{next(_NUMBERS)}"


def test_an_object_is_fetched_with_its_name(store: S3Server, bucket: str, pvc: Path):
    store.put(bucket, "data/rows.jsonl", jsonl("a"))
    store.put(bucket, "data/rows.jsonl.bak", b"x")

    path = fetched(f"s3://{bucket}/data/rows.jsonl", pvc)

    assert path.name == "rows.jsonl" and questions(path) == ["a"]
    assert files_in(pvc) == {path, path.parent / ".manifest.json"}


def test_a_large_object_is_fetched_in_parts_at_once(
    store: S3Server, bucket: str, pvc: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fetching, "_PART_SIZE", 1 << 18)
    store.put(bucket, "rows.jsonl", MANY)

    assert fetched(f"s3://{bucket}/rows.jsonl", pvc).read_bytes() == MANY


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_data_objects_below_a_prefix_are_fetched(
    store: S3Server, bucket: str, pvc: Path, slash: str, capsys: pytest.CaptureFixture
):
    for key, content in {
        "set/b.jsonl.gz": gzip.compress(jsonl("b")),
        "set/below/a.json": b"[" + jsonl("a") + b"]",
        "set/_SUCCESS": b"x",
        "set/README.md": b"x",
        "set/.cache/c.jsonl": jsonl("c"),
        "set/.d.jsonl": jsonl("d"),
        "settings.jsonl": jsonl("e"),
    }.items():
        store.put(bucket, key, content)

    path, rows, _ = resolve(f"s3://{bucket}/set{slash}", "train", str(pvc), None)

    assert rows == 2
    assert files_in(Path(path)) == {Path(path) / name for name in (".manifest.json", "b.jsonl.gz", "below/a.json")}
    assert "Skipped, as they do not have the extension of a data file: README.md, _SUCCESS" in capsys.readouterr().out


def test_a_data_connections_bucket_is_the_one_that_is_not_named(
    store: S3Server, bucket: str, pvc: Path, monkeypatch: pytest.MonkeyPatch
):
    store.put(bucket, "set/rows.jsonl", jsonl("a"))
    monkeypatch.setenv("AWS_S3_BUCKET", f"{bucket}\n")

    assert questions(fetched("s3:///set/rows.jsonl", pvc)) == ["a"]
    assert resolve("s3://", "train", str(pvc), None).num_rows == 1


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_may_be_given_as_boto3_knows_it(
    store: S3Server, bucket: str, pvc: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    store.put(bucket, "rows.jsonl", jsonl("a"))
    monkeypatch.delenv("AWS_S3_ENDPOINT")
    monkeypatch.setenv(name, store.endpoint)

    assert questions(fetched(f"s3://{bucket}/rows.jsonl", pvc)) == ["a"]


def test_credentials_may_end_with_a_newline_or_come_from_a_profile(
    store: S3Server, bucket: str, pvc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store.put(bucket, "rows.jsonl", jsonl("a"))
    key_id, secret = (store.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{secret}\n")
    assert questions(fetched(f"s3://{bucket}/rows.jsonl", pvc)) == ["a"]

    profile = tmp_path / "credentials"
    profile.write_text(f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    assert questions(fetched(f"s3://{bucket}/rows.jsonl", tmp_path / "other")) == ["a"]


# Again


@pytest.mark.parametrize("key", ["set/rows.jsonl", "set"])
def test_an_unchanged_source_is_not_fetched_again_and_a_changed_one_is(
    store: S3Server, bucket: str, pvc: Path, key: str
):
    store.put(bucket, "set/rows.jsonl", jsonl("a"))
    first = fetched(f"s3://{bucket}/{key}", pvc)
    changes = {path: path.stat().st_mtime_ns for path in files_in(pvc)}

    # Written again, with the same bytes.
    store.put(bucket, "set/rows.jsonl", jsonl("a"))
    assert fetched(f"s3://{bucket}/{key}", pvc) == first
    assert {path: path.stat().st_mtime_ns for path in files_in(pvc)} == changes

    # As long as before: only its ETag differs.
    store.put(bucket, "set/rows.jsonl", jsonl("b"))
    second = fetched(f"s3://{bucket}/{key}", pvc)
    assert [questions(path / "rows.jsonl" if path.is_dir() else path) for path in (first, second)] == [["a"], ["b"]]


def test_an_object_more_or_less_below_a_prefix_is_a_change(store: S3Server, bucket: str, pvc: Path):
    store.put(bucket, "set/a.jsonl", jsonl("a"))
    store.put(bucket, "set/b.jsonl", jsonl("b"))
    both = resolve(f"s3://{bucket}/set", "train", str(pvc), None)
    store.client.delete_object(Bucket=bucket, Key="set/a.jsonl")

    assert both.num_rows == 2 and resolve(f"s3://{bucket}/set", "train", str(pvc), None).num_rows == 1


def test_an_earlier_copy_is_not_taken_when_the_store_cannot_be_asked(
    store: S3Server, bucket: str, pvc: Path, monkeypatch: pytest.MonkeyPatch
):
    store.put(bucket, "rows.jsonl", jsonl("a"))
    fetched(f"s3://{bucket}/rows.jsonl", pvc)
    monkeypatch.setenv("AWS_S3_ENDPOINT", "http://127.0.0.1:1")

    assert refusal(f"s3://{bucket}/rows.jsonl", pvc) == (
        f"dataset_uri=s3://{bucket}/rows.jsonl: the S3 store http://127.0.0.1:1 cannot be reached: Connection refused"
    )


@pytest.mark.parametrize("times", [1, 3])
def test_an_object_that_changes_while_it_is_fetched_is_fetched_whole(
    store: S3Server, bucket: str, pvc: Path, monkeypatch: pytest.MonkeyPatch, times: int
):
    monkeypatch.setattr(fetching, "_PART_SIZE", 1 << 18)
    monkeypatch.setattr(fetching, "PARTS_AT_ONCE", 1)
    store.put(bucket, "rows.jsonl", MANY)
    versions = [MANY.replace(b"question", b"QUESTIO%d" % number) for number in range(times)]
    left = list(versions)

    class Progress(progress.Progress):
        def add(self, size: int) -> None:
            if left and self._done == 0:
                store.put(bucket, "rows.jsonl", left.pop(0))
            super().add(size)

    monkeypatch.setattr(fetching, "Progress", Progress)

    uri = f"s3://{bucket}/rows.jsonl"
    if times == 1:
        assert fetched(uri, pvc).read_bytes() == versions[-1]
    else:
        assert refusal(uri, pvc) == f"dataset_uri={uri}: changed 3 times during the download"
        assert not list(pvc.rglob(".manifest.json"))


@pytest.mark.slow
def test_a_killed_download_is_gone_on_with_and_gives_the_same_bytes(
    store: S3Server, bucket: str, pvc: Path, tmp_path: Path
):
    contents = {"set/a.jsonl": jsonl("a"), "set/b.jsonl": MANY, "set/below/c.jsonl": MANY.replace(b"question", b"c")}
    for key, content in contents.items():
        store.put(bucket, key, content)
    uri = f"s3://{bucket}/set"
    undisturbed = fetched(uri, tmp_path / "other")

    for point in (1, 2_000_000, len(MANY) + 1_500_000, "publishing", "renaming"):
        assert resolve_in_a_process(uri, pvc, point) is None
        assert not [path for path in pvc.rglob("*.json*") if path.parent.name.startswith("s3-")], point
    path = resolve_in_a_process(uri, pvc)

    assert path.relative_to(pvc) == undisturbed.relative_to(tmp_path / "other")
    for key, content in contents.items():
        name = key.removeprefix("set/")
        assert (path / name).read_bytes() == (undisturbed / name).read_bytes() == content
    assert not list((pvc / "datasets").glob(".*.partial*"))


# Errors


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("no.jsonl", "there is no such object and none below it in bucket {bucket}"),
        ("no/", "there is no such object and none below it in bucket {bucket}"),
        (
            "set/ro",
            "there is no such object and none below it in bucket {bucket}; there are keys that begin so: "
            "set/rows.jsonl",
        ),
        ("notes", "holds no data file, but a.md, b.txt; allowed: .jsonl, .ndjson, "),
        ("notes/a.md", "is not one of .jsonl, .ndjson, .json, .parquet, .csv, .arrow, each also with .gz or .zst"),
        ("empty.jsonl", "the object is empty"),
        ("empties/", "holds empty objects: empties/a.jsonl, empties/c.json"),
    ],
)
def test_an_object_that_is_not_there_or_no_data_is_told(
    store: S3Server, bucket: str, pvc: Path, key: str, message: str
):
    for name in ("set/rows.jsonl", "notes/a.md", "notes/b.txt"):
        store.put(bucket, name, jsonl("a"))
    for name in ("empty.jsonl", "empties/a.jsonl", "empties/c.json"):
        store.put(bucket, name, b"")
    store.put(bucket, "empties/b.jsonl", jsonl("a"))

    assert refusal(f"s3://{bucket}/{key}", pvc).startswith(
        f"dataset_uri=s3://{bucket}/{key}: " + message.format(bucket=bucket)
    )
    assert not files_in(pvc)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://no-such-bucket/rows.jsonl", "the S3 store {endpoint} has no bucket no-such-bucket"),
        ("s3://No Bucket/rows.jsonl", "'No Bucket' is not a valid bucket name"),
        ("s3:///rows.jsonl", "names no bucket, and AWS_S3_BUCKET is not set; allowed: s3://bucket/key"),
        ("s3://", "names no bucket, and AWS_S3_BUCKET is not set; allowed: s3://bucket/key"),
    ],
)
def test_a_bucket_that_cannot_be_is_told(store: S3Server, pvc: Path, uri: str, message: str):
    assert refusal(uri, pvc) == f"dataset_uri={uri}: {message.format(endpoint=store.endpoint)}"


def test_credentials_in_the_uri_are_refused_and_not_shown(pvc: Path):
    assert refusal("s3://AKIA:hunter2@bucket/rows.jsonl", pvc) == (
        "dataset_uri=s3://***@bucket/rows.jsonl: credentials do not belong there; set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY"
    )


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (on a cluster: the Secret of a data "
            "connection)",
        ),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not; set both"),
        ({"AWS_ACCESS_KEY_ID": ""}, "AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not; set both"),
        ({"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}, "the S3 store {endpoint} does not know the key id in AWS_ACCESS_KEY_ID"),
        (
            {"AWS_SECRET_ACCESS_KEY": "hunter2"},
            "the S3 store {endpoint} refuses the signature; AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID",
        ),
        (
            "limited",
            "the S3 store {endpoint} denies these credentials access (403 AccessDenied); they need "
            "s3:GetObject, and s3:ListBucket for a prefix",
        ),
        (
            {"AWS_S3_ENDPOINT": "http://no-such-host.invalid:9000"},
            "the S3 store http://no-such-host.invalid:9000 cannot be reached: its host name cannot be resolved",
        ),
        (
            {"AWS_S3_ENDPOINT": "http://user:hunter2@127.0.0.1:1"},
            "the S3 store http://***@127.0.0.1:1 cannot be reached: Connection refused",
        ),
        (
            {"AWS_S3_ENDPOINT": "ht tp://x"},
            "AWS_S3_ENDPOINT=ht tp://x is not the URL of a store; allowed: http(s)://host[:port]",
        ),
        ({"AWS_PROFILE": "nobody"}, "boto3 is not configured for it: The config profile (nobody) could not be found"),
    ],
)
def test_what_keeps_from_reading_is_told(
    store: S3Server, pvc: Path, monkeypatch: pytest.MonkeyPatch, variables: dict | str, message: str
):
    store.put("closed", "rows.jsonl", jsonl("a"))
    for name, value in (store.limited if variables == "limited" else variables).items():
        monkeypatch.setenv(name, value)

    assert refusal("s3://closed/rows.jsonl", pvc) == (
        "dataset_uri=s3://closed/rows.jsonl: " + message.format(endpoint=store.endpoint)
    )
    assert not files_in(pvc)


def test_an_endpoint_without_a_scheme_is_asked_over_tls_whose_errors_are_told(
    pvc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    certificate = tmp_path / "server.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    with HttpFileServer(certificate=str(certificate)) as server:
        monkeypatch.setenv("AWS_S3_ENDPOINT", server.url.removeprefix("https://"))

        assert refusal("s3://bucket/rows.jsonl", pvc) == (
            f"dataset_uri=s3://bucket/rows.jsonl: the S3 store {server.url} cannot be reached: TLS failed: "
            "its certificate is not trusted (unable to get local issuer certificate); set OSFT_CA_BUNDLE to the PEM "
            "file of the authority that signed it"
        )


def test_a_certificate_that_is_not_trusted_ends_it_at_once(pvc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    certificate = tmp_path / "server.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "20")
    with HttpFileServer(certificate=str(certificate)) as server:
        monkeypatch.setenv("AWS_S3_ENDPOINT", server.url)
        assert "its certificate is not trusted" in refusal("s3://bucket/rows.jsonl", pvc)


def test_an_endpoint_without_a_scheme_on_a_store_in_plain_http_says_so(
    store: S3Server, pvc: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_S3_ENDPOINT", store.endpoint.removeprefix("http://"))

    assert refusal("s3://bucket/rows.jsonl", pvc) == (
        f"dataset_uri=s3://bucket/rows.jsonl: the S3 store {store.endpoint.replace('http', 'https')} cannot be "
        "reached: TLS failed: it answers in plain HTTP; write http:// before its host"
    )


@pytest.mark.parametrize(
    ("endpoint", "right"),
    [
        ("https://store.example:9000/rows", "https://store.example:9000"),
        ("store.example/rows/", "https://store.example"),
        ("https://rows.s3.eu-west-1.amazonaws.com", "https://s3.eu-west-1.amazonaws.com"),
    ],
)
def test_an_endpoint_that_holds_the_bucket_says_how_to_write_it(
    pvc: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, right: str
):
    monkeypatch.setenv("AWS_S3_ENDPOINT", endpoint)

    assert refusal("s3://rows/a.jsonl", pvc).endswith(
        f"contains the bucket rows, which belongs in dataset_uri only; set AWS_S3_ENDPOINT={right}"
    )


def test_objects_that_do_not_fit_on_the_disk_are_refused_before_they_are_fetched(
    store: S3Server, bucket: str, pvc: Path, monkeypatch: pytest.MonkeyPatch
):
    store.put(bucket, "rows.jsonl", MANY)
    # A disk on which everything but a byte less than this is taken.
    free = downloads.shutil.disk_usage("/").free
    monkeypatch.setattr(downloads, "_ROOM_TO_LEAVE", free - 1_000_000)

    assert re.fullmatch(
        rf"dataset_uri=s3://{bucket}/rows\.jsonl: needs [\d.]+ MiB, but pvc_path={pvc} has .* free",
        refusal(f"s3://{bucket}/rows.jsonl", pvc),
    )


def test_no_credential_is_shown_or_written(store: S3Server, bucket: str, pvc: Path, capfd: pytest.CaptureFixture):
    store.put(bucket, "rows.jsonl", jsonl("a"))
    fetched(f"s3://{bucket}/rows.jsonl", pvc)

    secrets = [store.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    written = [path.read_text() for path in pvc.rglob("*") if path.is_file()] + list(capfd.readouterr())
    assert len(written) > 3 and not [secret for secret in secrets if secret in "".join(written)]


@dataclass
class OddStore(LocalServer):
    """Answers HEAD and GET with these headers and bodies, whatever is asked."""

    headers: dict[str, str]
    body: bytes = b""
    status: int = 200

    def handler(self) -> type[QuietHandler]:
        return _OddHandler


class _OddHandler(QuietHandler):
    site: OddStore

    def do_GET(self) -> None:
        self.send_response(self.site.status, "\x1b]52;c;Zm9v\x07")
        for name, value in {"Content-Length": str(len(self.site.body)), **self.site.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.site.body)
        self.close_connection = True

    do_HEAD = do_GET


def _listing(**fields: str) -> bytes:
    entry = {"Key": "p/a.jsonl", "ETag": "e", "Size": "5"} | fields
    xml = "".join(f"<{name}>{value}</{name}>" for name, value in entry.items() if value)
    return f"<ListBucketResult><Name>b</Name><Contents>{xml}</Contents></ListBucketResult>".encode()


@pytest.mark.parametrize(
    ("uri", "answer"),
    [
        ("s3://b/x.jsonl", {"headers": {"Content-Length": "5"}}),
        ("s3://b/x.jsonl", {"headers": {"ETag": "e", "Content-Length": "five"}}),
        ("s3://b/x.jsonl", {"headers": {"ETag": "e", "Content-Length": "9" * 400}}),
        ("s3://b/x.jsonl", {"headers": {"ETag": "e", "Content-Length": "-5"}}),
        ("s3://b/x.jsonl", {"headers": {"ETag": "e", "Content-Length": "5", "Last-Modified": "yesterday"}}),
        ("s3://b/x.jsonl", {"headers": {"Location": "/b/x.jsonl"}, "status": 302}),
        ("s3://b/x.jsonl", {"headers": {}, "status": 400}),
        *(("s3://b/p/", {"headers": {}, "body": body}) for body in (b"<html>login", b"{}", b"\xff\xfe\0", b"<a>")),
        *(("s3://b/p/", {"headers": {}, "body": _listing(**{name: ""})}) for name in ("Key", "ETag", "Size")),
        *(("s3://b/p/", {"headers": {}, "body": _listing(Size=size)}) for size in ("x", "-5", "9" * 400)),
        *(("s3://b/p/", {"headers": {}, "body": _listing(Key=f"p/{name}.jsonl")}) for name in ("a" * 400, "d/" * 3000)),
    ],
)
def test_a_server_that_answers_as_no_store_does_is_told_in_a_sentence(
    uri: str, answer: dict, pvc: Path, monkeypatch: pytest.MonkeyPatch
):
    with OddStore(**answer) as store:
        monkeypatch.setenv("AWS_S3_ENDPOINT", store.url)
        with pytest.raises(InputError) as error:
            resolve(uri, "train", str(pvc), None)
    said = str(error.value)
    assert said.startswith(f"dataset_uri={uri}: ") and "\n" not in said and "\x1b" not in said and len(said) < 700
    assert not list(pvc.rglob("*.unfinished"))


def test_keys_that_would_be_one_file_keep_all_their_rows(store: S3Server, bucket: str, pvc: Path):
    # This store refuses "." in keys, and takes "//" for "/".
    for key in ("p/x/a.jsonl", "p/x/A.jsonl", "p/X/a.jsonl"):
        store.put(bucket, key, jsonl(key))
    listed = {entry["Key"] for entry in store.client.list_objects_v2(Bucket=bucket, Prefix="p/")["Contents"]}
    assert len(listed) == 3

    folder = fetched(f"s3://{bucket}/p", pvc)

    paths = [str(file.relative_to(folder)).lower() for file in files_in(pvc) if file.suffix == ".jsonl"]
    assert len({*paths}) == len(paths) == 3
    assert resolve(f"s3://{bucket}/p", "train", str(pvc), None).num_rows == 3


@pytest.mark.parametrize("key", ["p/x//a.jsonl", "p/./x/a.jsonl", "p//x/a.jsonl"])
def test_objects_whose_keys_are_one_path_are_two_files(
    monkeypatch: pytest.MonkeyPatch, store: S3Server, bucket: str, pvc: Path, key: str
):
    """AWS keeps such keys apart, which the store of the tests does not: its listing and answers are changed."""
    store.put(bucket, "p/x/a.jsonl", jsonl("one"))
    store.put(bucket, "p/other.jsonl", jsonl("two"))
    make_client = fetching.open_store

    def client_of_aws(place: fetching.Place) -> object:
        client = make_client(place)

        def rename(parsed: dict, **_: object) -> None:
            for entry in parsed.get("Contents", ()):
                entry["Key"] = {"p/other.jsonl": key}.get(entry["Key"], entry["Key"])

        def rename_back(params: dict, **_: object) -> None:
            params["Key"] = {key: "p/other.jsonl"}.get(params["Key"], params["Key"])

        client.meta.events.register("after-call.s3.ListObjectsV2", rename)
        client.meta.events.register_last("before-parameter-build.s3.GetObject", rename_back)
        return client

    monkeypatch.setattr(fetching, "open_store", client_of_aws)

    folder = fetched(f"s3://{bucket}/p", pvc)

    files = sorted(folder.rglob("*.jsonl"))
    assert sorted(questions(file)[0] for file in files) == ["one", "two"]


def test_a_copy_of_a_prefix_that_was_cut_or_added_to_is_fetched_again(store: S3Server, bucket: str, pvc: Path):
    for name in "ab":
        store.put(bucket, f"p/{name}.jsonl", jsonl(name, name * 2))
    folder = fetched(f"s3://{bucket}/p", pvc)
    before = {file: file.read_bytes() for file in files_in(pvc)}

    for damage in (
        lambda: (folder / "a.jsonl").write_bytes(jsonl("a")),
        lambda: (folder / "b.jsonl").unlink(),
        lambda: (folder / "c.jsonl").write_bytes(jsonl("c")),
    ):
        damage()
        assert fetched(f"s3://{bucket}/p", pvc) == folder
        assert {file: file.read_bytes() for file in files_in(pvc)} == before
