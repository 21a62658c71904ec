import csv
import decimal
import gzip
import io
import json
import random
from pathlib import Path

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from helpers.errors import error_of
from helpers.question_rows import put
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows import columnar, formats
from kfp_osft.shared.rows.files import Row, count_rows, read_rows
from kfp_osft.shared.rows.formats import ALLOWED_FILES, rows_of

BOM = b"\xef\xbb\xbf"


def row(number: int) -> dict:
    return {
        "messages": [
            {"role": "user", "content": f"Frage {number}?"},
            {"role": "assistant", "content": f"Größe {number} \U0001f600"},
        ]
    }


ROWS = [row(number) for number in range(3)]
#: What a table can hold: cells of text, with what makes CSV hard.
CELLS = [{"prompt": 'a "quoted", text\nof two lines', "completion": f"Größe {number}"} for number in range(3)]


def as_jsonl(rows: list) -> bytes:
    return "".join(json.dumps(values, ensure_ascii=False) + "\n" for values in rows).encode()


def as_json(rows: list) -> bytes:
    return json.dumps(rows, indent=1).encode()


def as_parquet(rows: list) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def as_arrow(rows: list, kind: str = "stream", rows_at_once: int = 2) -> bytes:
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.Table.from_pylist(rows)
    new = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
    with new(sink, table.schema) as writer:
        writer.write_table(table, rows_at_once)
    return sink.getvalue().to_pybytes()


def as_csv(rows: list) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


FILES = [
    ("rows.jsonl", as_jsonl(ROWS)),
    ("rows.ndjson", as_jsonl(ROWS)),
    ("ROWS.JSONL", as_jsonl(ROWS)),
    ("without a newline at the end.jsonl", as_jsonl(ROWS).rstrip()),
    ("windows.jsonl", as_jsonl(ROWS).replace(b"\n", b"\r\n")),
    ("blank lines.jsonl", as_jsonl(ROWS).replace(b"\n", b"\n\n  \n")),
    ("bom.jsonl", BOM + as_jsonl(ROWS)),
    ("array.json", as_json(ROWS)),
    ("blanks and array.json", b"\n  " + as_json(ROWS) + b" \n"),
    ("bom and array.json", BOM + as_json(ROWS)),
    ("line by line.json", as_jsonl(ROWS)),
    ("bom and line by line.json", BOM + as_jsonl(ROWS)),
    ("rows.parquet", as_parquet(ROWS)),
    ("rows.arrow", as_arrow(ROWS)),
    ("file.arrow", as_arrow(ROWS, "file")),
    # KFP's artifacts have no extension.
    ("dataset", as_jsonl(ROWS)),
    ("dataset with bom", BOM + as_jsonl(ROWS)),
    ("dataset of array", as_json(ROWS)),
    ("dataset of parquet", as_parquet(ROWS)),
    ("dataset of arrow stream", as_arrow(ROWS)),
    ("dataset of arrow file", as_arrow(ROWS, "file")),
]


@pytest.mark.parametrize("compress", [lambda content: content, gzip.compress, zstd], ids=["plain", "gz", "zst"])
@pytest.mark.parametrize(("name", "content"), FILES, ids=[name for name, _ in FILES])
def test_rows_are_the_same_in_each_format_compressed_or_not(tmp_path: Path, name: str, content: bytes, compress):
    extension = {gzip.compress: ".gz", zstd: ".zst"}.get(compress, "") if "." in name else ""
    path = put(tmp_path / (name + extension), compress(content))

    assert list(read_rows(path)) == [
        Row(f"{path.name}, row {number}", values) for number, values in enumerate(ROWS, start=1)
    ]
    assert count_rows(path) == 3


@pytest.mark.parametrize(
    "content",
    [as_csv(CELLS), BOM + as_csv(CELLS), as_csv(CELLS).replace(b"\r\n", b"\n"), as_csv(CELLS) + b"\r\n\r\n"],
    ids=["plain", "bom", "unix", "blank lines"],
)
@pytest.mark.parametrize("compress", [lambda content: content, gzip.compress, zstd], ids=["plain", "gz", "zst"])
def test_the_header_of_a_csv_file_names_the_fields_of_its_rows(tmp_path: Path, content: bytes, compress):
    path = put(tmp_path / "rows.csv", compress(content))

    assert [values for _, values in read_rows(path)] == CELLS


def test_a_csv_cell_may_hold_a_conversation_of_any_length(tmp_path: Path):
    messages = json.dumps([{"role": "user", "content": "x" * 500_000}])
    path = put(tmp_path / "rows.csv", as_csv([{"messages": messages}]))

    assert [values for _, values in read_rows(path)] == [{"messages": messages}]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_table_of_a_spreadsheet_may_have_semicolons_or_tabs(tmp_path: Path, delimiter: str):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([["prompt", "completion"], ["Who, and why?", "a\nb"]])
    path = put(tmp_path / "rows.csv", text.getvalue().encode())

    assert [values for _, values in read_rows(path)] == [{"prompt": "Who, and why?", "completion": "a\nb"}]


CALLS = [
    {
        "messages": [
            {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"city": "Wien"}}]}
        ]
    },
    {
        "messages": [
            {"role": "assistant", "content": "I", "tool_calls": [{"name": "g", "arguments": {"days": [1, None]}}]}
        ]
    },
    {"messages": [{"role": "user", "content": "Who?"}]},
]


@pytest.mark.parametrize("form", [as_parquet, as_arrow])
def test_the_nulls_with_which_a_table_fills_its_objects_are_no_values(tmp_path: Path, form):
    path = put(tmp_path / ("rows.parquet" if form is as_parquet else "rows.arrow"), form(CALLS))

    without_nulls = json.loads(json.dumps(CALLS))
    del without_nulls[0]["messages"][0]["content"]
    assert [values for _, values in read_rows(path)] == without_nulls


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_objects_that_datasets_keeps_as_json_are_read_as_objects(tmp_path: Path, kind: str):
    rows = [
        {"messages": [{"role": "assistant", "tool_calls": [{"arguments": {"city": "Wien", "unit": None}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"arguments": {"city": 3}}]}]},
    ]
    dataset = datasets.Dataset.from_list(rows, on_mixed_types="use_json")
    path = tmp_path / "rows.parquet"
    if kind == "parquet":
        dataset.to_parquet(path)
    else:
        path = tmp_path / "saved"
        dataset.save_to_disk(path)

    assert [values for _, values in read_rows(path)] == rows


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_columns_of_any_type_beside_the_conversation_do_no_harm(tmp_path: Path, form: str):
    table = pyarrow.table(
        {
            "prompt": ["Who?", None],
            "decimal": [decimal.Decimal("1.50"), None],
            "bytes": [b"\xff", None],
            "image": [{"bytes": b"\xff", "path": None}, None],
            "day": pyarrow.array([1, None], pyarrow.date32()),
            "duration": pyarrow.array([1, None], pyarrow.duration("s")),
            "zone": pyarrow.array([1, None], pyarrow.timestamp("us", "Europe/Vienna")),
            "nanoseconds": pyarrow.array([1, None], pyarrow.timestamp("ns")),
            "year 33658": pyarrow.array([10**12, None], pyarrow.timestamp("s")),
            "map": pyarrow.array([[("a", 1)], None], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
            "category": pyarrow.array(["a", None]).dictionary_encode(),
            "big": pyarrow.array(["a", None], pyarrow.large_string()),
            "nothing": pyarrow.nulls(2),
        }
    )
    path = tmp_path / f"rows.{form}"
    if form == "parquet":
        parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)

    first, second = (values for _, values in read_rows(path))

    assert first["prompt"] == "Who?" and first["category"] == "a" and first["map"] == {"a": 1}
    assert "year 33658" in first and set(second.values()) == {None}


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_batch_of_large_rows_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str):
    monkeypatch.setattr(columnar, "_BYTES_AT_ONCE", 1 << 20)
    rows = [{"prompt": str(number) * (1 << 18)} for number in range(8)]
    path = tmp_path / f"rows.{form}"
    path.write_bytes(as_parquet(rows) if form == "parquet" else as_arrow(rows, rows_at_once=8))
    sizes = []
    rows_of_batch = columnar._rows_of_batch
    monkeypatch.setattr(columnar, "_rows_of_batch", lambda batch: sizes.append(batch.num_rows) or rows_of_batch(batch))

    assert [values for _, values in read_rows(path)] == rows
    assert sizes == [3, 3, 2]


def test_a_parquet_file_is_read_through_all_its_row_groups(tmp_path: Path):
    rows = [row(number) for number in range(2500)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=700)

    assert [values for _, values in read_rows(tmp_path / "rows.parquet")] == rows


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_an_arrow_file_is_read_through_all_its_batches(tmp_path: Path, kind: str):
    rows = [row(number) for number in range(2500)]
    path = put(tmp_path / "rows.arrow", as_arrow(rows, kind, rows_at_once=1300))

    assert [values for _, values in read_rows(path)] == rows


@pytest.mark.parametrize("join", [gzip.compress, zstd])
def test_compressed_files_that_were_put_one_after_the_other_are_read_to_the_end(tmp_path: Path, join):
    # As parallel compressors and `cat` make them.
    path = put(tmp_path / "rows.jsonl", b"".join(join(as_jsonl([values])) for values in ROWS))

    assert [values for _, values in read_rows(path)] == ROWS


def test_an_array_is_read_the_same_wherever_its_pieces_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [{"a": -12.5e3, "b": [True, None, '\U0001f600 " \\'], "c": {"d": ""}}, {"n": 1234567}, {}]
    path = put(tmp_path / "rows.json", json.dumps(rows, indent=1).encode())

    for characters in (1, 2, 3, 5, 7, 11, 40):
        monkeypatch.setattr(formats, "_CHARACTERS_AT_ONCE", characters)
        assert [values for _, values in read_rows(path)] == rows


def test_any_cut_of_an_array_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = as_json(ROWS)
    monkeypatch.setattr(formats, "_CHARACTERS_AT_ONCE", 16)

    for length in random.Random(7).sample(range(2, len(content)), 60):
        path = put(tmp_path / "rows.json", content[:length])
        assert error_of(count_rows, path).startswith("rows.json"), length


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl.gz", gzip.compress(as_jsonl(ROWS) * 100)),
        ("rows.jsonl.zst", zstd(as_jsonl(ROWS) * 100)),
        ("rows.parquet", as_parquet(ROWS)),
        ("rows.arrow", as_arrow(ROWS)),
        ("rows.arrow", as_arrow(ROWS, "file")),
        ("rows.csv.gz", gzip.compress(as_csv(CELLS))),
        ("rows.parquet.zst", zstd(as_parquet(ROWS))),
    ],
)
def test_any_cut_of_a_compressed_or_binary_file_is_seen(tmp_path: Path, name: str, content: bytes):
    for length in [1, *random.Random(7).sample(range(2, len(content) - 1), 20), len(content) - 1]:
        path = put(tmp_path / name, content[:length])
        assert name in error_of(count_rows, path), length


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"", "dataset file {path} is empty"),
        ("rows.parquet", b"", "dataset file {path} is empty"),
        ("dataset", b"", "dataset file {path} is empty"),
        ("rows.jsonl", b"\n \n", "dataset {path} has no rows"),
        ("rows.jsonl.gz", gzip.compress(b""), "dataset {path} has no rows"),
        ("rows.json", b"[]", "dataset {path} has no rows"),
        ("rows.parquet", as_parquet([row(0)][:0]), "dataset {path} has no rows"),
        ("rows.csv", b"a,b\n", "dataset {path} has no rows"),
        ("rows.txt", b"a,b\n", "dataset file {path} is not one of " + ALLOWED_FILES),
        ("rows.tar.gz", gzip.compress(b"x"), "dataset file {path} is not one of " + ALLOWED_FILES),
        ("rows.gz", gzip.compress(b"x"), "dataset file {path} is not one of " + ALLOWED_FILES),
        ("dataset", b"a,b\n", "dataset file {path} is not one of " + ALLOWED_FILES),
        ("rows.jsonl", as_jsonl(ROWS) + b'{"messages": [\n', "rows.jsonl, line 4: is not JSON: Expecting value"),
        ("rows.jsonl", b"\n" + as_jsonl(ROWS) + b"x\n", "rows.jsonl, line 5: is not JSON: Expecting value"),
        (
            "rows.jsonl.gz",
            gzip.compress(as_jsonl(ROWS) + b"x\n"),
            "rows.jsonl.gz, line 4: is not JSON: Expecting value",
        ),
        ("rows.jsonl.gz", as_jsonl(ROWS), "rows.jsonl.gz: is truncated or damaged: Not a gzipped file"),
        ("rows.jsonl.zst", as_jsonl(ROWS), "rows.jsonl.zst: is truncated or damaged: ZSTD decompress failed"),
        ("rows.json", as_json(ROWS)[:-1], "rows.json, after row 3: is not JSON: the closing ']' is missing"),
        ("rows.json", b"[{} {}]", "rows.json, after row 1: is not JSON: Expecting ',' or ']'"),
        ("rows.json", b"[{}, x]", "rows.json, after row 1: is not JSON: Expecting value"),
        ("rows.json", b"[{}],", "rows.json, after row 1: is not JSON: there is more after the closing ']'"),
        ("rows.json", b'[{"a": "\xff"}]', "rows.json, after row 0: is not UTF-8"),
        ("rows.json", b"[" * 100_000, "rows.json, after row 0: holds JSON that is nested too deeply"),
        (
            "rows.json",
            json.dumps(row(0), indent=1).encode(),
            "rows.json, line 1: is not JSON: Expecting property name enclosed in double quotes: line 2 column 1 "
            "(char 2); a .json file holds an array of rows, or a row a line",
        ),
        (
            "rows.jsonl",
            as_jsonl(ROWS[:1]) + '{"messages": "Größe"}\n'.encode("latin-1"),
            "rows.jsonl, line 2: is not UTF-8",
        ),
        ("rows.parquet", as_jsonl(ROWS), "rows.parquet: is not Parquet: "),
        ("rows.parquet", as_parquet(ROWS)[:-20], "rows.parquet: is not Parquet: "),
        ("rows.arrow", as_jsonl(ROWS), "rows.arrow: is cut or not Arrow: a stream's end mark is missing"),
        ("rows.arrow", as_arrow(ROWS)[:-8], "rows.arrow: is cut or not Arrow: a stream's end mark is missing"),
        ("rows.arrow", as_arrow(ROWS, "file")[:-8], "rows.arrow: is not Arrow: "),
        ("rows.csv", b"a,b\n1,2\n1,2,3\n", "rows.csv, row 2: has 3 cells, the header has 2"),
        ("rows.csv", b"a,b\n1,2\n1\n", "rows.csv, row 2: has 1 cells, the header has 2"),
        ("rows.csv", b"a,b,a\n1,2,3\n", "rows.csv: its header names a field twice: 'a'"),
        ("rows.csv", b'a,b\n1,"2\n', "rows.csv, line 2: is not CSV: unexpected end of data"),
        ("rows.csv", b'a,b\n"1"x,2\n', "rows.csv, line 2: is not CSV: ',' expected after '\"'"),
        ("rows.csv", "a\n1\nGröße\n".encode("latin-1"), "rows.csv, after line 0: is not UTF-8"),
        ("rows.jsonl", b"[1]\n", "rows.jsonl, row 1: is a list, expected an object with the fields of a row"),
        ("rows.jsonl", as_jsonl(ROWS) + b'"x"\n', "rows.jsonl, row 4: is a string, expected an object"),
        ("rows.json", b"[{}, null]", "rows.json, row 2: is null, expected an object with the fields of a row"),
        ("rows.json", b"[{}, 7]", "rows.json, row 2: is a number, expected an object with the fields of a row"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_row(tmp_path: Path, name: str, content: bytes, message: str):
    path = put(tmp_path / name, content)

    assert error_of(count_rows, path).startswith(message.format(path=path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("blank.jsonl.gz", b"\n"),
        ("one-line.jsonl.gz", b"a"),
        ("array.json.gz", b'["a'),
        ("cell.csv.gz", b"a,b\n"),
        ("parquet.parquet.gz", b"PAR1"),
    ],
)
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(formats, "_UNPACKED_ANYWAY", 1 << 20)
    monkeypatch.setattr(formats, "_LONGEST_ROW", 1 << 22)
    monkeypatch.setattr(formats, "_MOST_TIMES_UNPACKED", 50)
    bomb = tmp_path / name
    bomb.write_bytes(gzip.compress(content + content[-1:] * (10 << 20)))
    with pytest.raises(InputError, match="unpacks to more than 50 times its size|is longer than 4.0 MiB"):
        list(rows_of(bomb))


@pytest.mark.parametrize(
    ("name", "content"), [("one-line.jsonl", "x"), ("array.json", '["' + "x"), ("cells.csv", 'a,b\n1,"' + "x")]
)
def test_a_row_without_an_end_is_refused(name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(formats, "_LONGEST_ROW", 1 << 22)
    file = tmp_path / name
    file.write_text(content + content[-1] * (9 << 20))
    with pytest.raises(InputError, match=r"is longer than 4.0 MiB|is not JSON"):
        list(rows_of(file))


@pytest.mark.parametrize("name", ["number.jsonl", "number.json"])
def test_a_number_of_thousands_of_digits_is_one_sentence(name: str, tmp_path: Path):
    file = tmp_path / name
    file.write_text('[{"n": ' + "9" * 5000 + "}]")
    with pytest.raises(InputError, match="is not JSON: Exceeds the limit"):
        list(rows_of(file))
