import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from kfp_osft.shared.dataset_files import Row, count_rows, dataset_files, read_rows
from kfp_osft.shared.errors import InputError

BOM = b"\xef\xbb\xbf"


def row(number: int) -> dict:
    return {"messages": [{"role": "user", "content": f"Frage {number}?"},
                         {"role": "assistant", "content": f"Größe {number} \U0001f600"}]}


ROWS = [row(number) for number in range(3)]


def as_jsonl(rows: list) -> bytes:
    return "".join(json.dumps(values, ensure_ascii=False) + "\n" for values in rows).encode()


def as_json(rows: list) -> bytes:
    return json.dumps(rows, indent=1).encode()


def as_parquet(rows: list) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def error_of(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", as_jsonl(ROWS)),
        ("rows.ndjson", as_jsonl(ROWS)),
        ("ROWS.JSONL", as_jsonl(ROWS)),
        ("without a newline at the end.jsonl", as_jsonl(ROWS).rstrip()),
        ("windows.jsonl", as_jsonl(ROWS).replace(b"\n", b"\r\n")),
        ("blank lines.jsonl", as_jsonl(ROWS).replace(b"\n", b"\n\n  \n")),
        ("bom.jsonl", BOM + as_jsonl(ROWS)),
        ("array.json", as_json(ROWS)),
        ("blanks and array.json", b"\n  " + as_json(ROWS)),
        ("bom and array.json", BOM + as_json(ROWS)),
        ("line by line.json", as_jsonl(ROWS)),
        ("bom and line by line.json", BOM + as_jsonl(ROWS)),
        ("rows.parquet", as_parquet(ROWS)),
        # KFP's artifacts have no extension.
        ("dataset", as_jsonl(ROWS)),
        ("dataset with bom", BOM + as_jsonl(ROWS)),
        ("dataset of array", as_json(ROWS)),
        ("dataset of parquet", as_parquet(ROWS)),
    ],
)
def test_rows_are_the_same_in_each_format(tmp_path: Path, name: str, content: bytes):
    path = put(tmp_path / name, content)

    assert list(read_rows(path)) == [
        Row(f"{name}, row {number}", values) for number, values in enumerate(ROWS, start=1)]
    assert count_rows(path) == 3


def test_a_parquet_file_is_read_through_all_its_row_groups(tmp_path: Path):
    rows = [row(number) for number in range(2500)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=700)

    assert [values for _, values in read_rows(tmp_path / "rows.parquet")] == rows


def test_a_folder_is_read_file_by_file_in_the_order_of_names(tmp_path: Path):
    put(tmp_path / "part-2.parquet", as_parquet(ROWS[2:]))
    put(tmp_path / "part-1.jsonl", as_jsonl(ROWS[:2]))
    put(tmp_path / "below" / "part-0.json", as_json(ROWS))

    assert [place for place, _ in read_rows(tmp_path)] == [
        "part-0.json, row 1", "part-0.json, row 2", "part-0.json, row 3",
        "part-1.jsonl, row 1", "part-1.jsonl, row 2", "part-2.parquet, row 1"]
    assert [values for _, values in read_rows(tmp_path)] == [*ROWS, *ROWS]


@pytest.mark.parametrize("passed_over", [".hidden.jsonl", ".cache/rows.jsonl", "below/.git/rows.json",
                                         "README.md", "LICENSE", ".manifest.json"])
def test_hidden_files_and_what_is_no_data_are_passed_over(tmp_path: Path, passed_over: str):
    rows = put(tmp_path / "rows.jsonl", as_jsonl(ROWS))
    put(tmp_path / passed_over, b"no rows")

    assert dataset_files(tmp_path) == [rows]


def test_a_folder_that_is_itself_below_a_hidden_one_is_read(tmp_path: Path):
    rows = put(tmp_path / ".cache" / "set" / "rows.jsonl", as_jsonl(ROWS))

    assert dataset_files(rows.parent) == [rows]


def test_a_link_to_a_file_is_followed_as_in_the_hub_cache(tmp_path: Path):
    blob = put(tmp_path / "blobs" / "0123", as_jsonl(ROWS))
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "rows.jsonl").symlink_to(blob)

    assert count_rows(tmp_path / "snapshot") == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"", "dataset file {path} is empty"),
        ("rows.parquet", b"", "dataset file {path} is empty"),
        ("dataset", b"", "dataset file {path} is empty"),
        ("rows.jsonl", b"\n \n", "dataset {path} has no rows"),
        ("rows.json", b"[]", "dataset {path} has no rows"),
        ("rows.parquet", as_parquet([row(0)][:0]), "dataset {path} has no rows"),
        ("rows.csv", b"a,b\n", "dataset file {path} is none of .jsonl, .ndjson, .json, .parquet"),
        ("dataset", b"a,b\n", "dataset file {path} is none of .jsonl, .ndjson, .json, .parquet"),
        ("rows.jsonl", as_jsonl(ROWS) + b'{"messages": [\n',
         "rows.jsonl, line 4: is not JSON: Expecting value"),
        ("rows.jsonl", b"\n" + as_jsonl(ROWS) + b"x\n", "rows.jsonl, line 5: is not JSON: Expecting value"),
        ("rows.json", as_json(ROWS)[:-1], "rows.json: is not JSON: Expecting ',' delimiter"),
        ("rows.json", json.dumps(row(0), indent=1).encode(),
         "rows.json, line 1: is not JSON: Expecting property name enclosed in double quotes: line 2 column 1 "
         "(char 2); a .json file holds an array of rows, or a row a line"),
        ("rows.jsonl", as_jsonl(ROWS[:1]) + "{\"messages\": \"Größe\"}\n".encode("latin-1"),
         "rows.jsonl, line 2: is not UTF-8"),
        ("rows.parquet", as_jsonl(ROWS), "rows.parquet: is not Parquet: "),
        ("rows.parquet", as_parquet(ROWS)[:-20], "rows.parquet: is not Parquet: "),
        ("rows.jsonl", b"[1]\n", "rows.jsonl, row 1: is a list, expected an object with the fields of a row"),
        ("rows.jsonl", as_jsonl(ROWS) + b'"x"\n', "rows.jsonl, row 4: is a string, expected an object"),
        ("rows.json", b"[{}, null]",
         "rows.json, row 2: is null, expected an object with the fields of a row"),
        ("rows.json", b"[{}, 7]",
         "rows.json, row 2: is a number, expected an object with the fields of a row"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_row(tmp_path: Path, name: str, content: bytes,
                                                          message: str):
    path = put(tmp_path / name, content)

    assert error_of(count_rows, path).startswith(message.format(path=path))


def test_a_cut_parquet_file_in_a_folder_is_named(tmp_path: Path):
    put(tmp_path / "a.jsonl", as_jsonl(ROWS))
    put(tmp_path / "b.parquet", as_parquet(ROWS)[:-20])

    assert error_of(count_rows, tmp_path).startswith("b.parquet: is not Parquet: ")


def test_a_missing_dataset_is_told(tmp_path: Path):
    assert error_of(count_rows, tmp_path / "no") == f"dataset {tmp_path / 'no'} does not exist"


def test_a_folder_without_data_is_told(tmp_path: Path):
    put(tmp_path / "README.md", b"x")
    put(tmp_path / ".rows.jsonl", as_jsonl(ROWS))

    assert error_of(count_rows, tmp_path) == (
        f"dataset folder {tmp_path} holds no data file; allowed: {', '.join(FORMATS)}")
