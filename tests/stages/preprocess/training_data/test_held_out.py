import json
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.preprocess_rows import ANSWER, tokens
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.preprocess.base_model import BaseModel, load_tokenizer
from kfp_osft.stages.preprocess.training_data import Preprocessed, preprocess_dataset


def row(number: int, **more: object) -> dict:
    return {"messages": [{"role": "user", "content": f"Question {number}?"}, ANSWER]} | more


@pytest.fixture
def numbers_in(tiny_model: Path) -> Callable[[Path], list[int]]:
    """The numbers of the questions in a file of samples."""
    tokenizer = load_tokenizer(BaseModel("tiny", tiny_model))

    def read(path: Path) -> list[int]:
        texts = tokenizer.batch_decode([json.loads(line)["input_ids"] for line in path.read_text().splitlines()])
        return [int(text.split("Question ")[1].split("?")[0]) for text in texts]

    return read


@pytest.fixture
def sides(run, numbers_in) -> Callable[..., tuple[list[int], list[int]]]:
    """The numbers of the rows that are trained on, and of those that are held out."""

    def divide(path: Path, **parameters: object) -> tuple[list[int], list[int]]:
        result = run(path, **parameters)
        held_out = Path(result.data_path).parent / "validation.jsonl"
        return numbers_in(Path(result.data_path)), numbers_in(held_out) if held_out.exists() else []

    return divide


def of(result: Preprocessed) -> dict:
    return json.loads(result.training_config)


def test_a_share_of_the_rows_is_held_out_and_tokenized_like_the_others(run, dataset, numbers_in, capsys):
    rows = dataset(*map(row, range(40)))
    everything = {*Path(run(rows).data_path).read_text().splitlines()}

    result = run(rows, validation_split=0.25)

    data, held_out = Path(result.data_path), Path(result.data_path).parent / "validation.jsonl"
    assert (result.num_samples, len(numbers_in(held_out))) == (30, 10)
    assert {*data.read_text().splitlines()} | {*held_out.read_text().splitlines()} == everything
    assert of(result)["data"]["validation_path"] == str(held_out)
    assert of(result)["about"]["validation_samples"] == 10
    report = json.loads((data.parent / "report.json").read_text())
    assert (report["samples"], report["validation"]["samples"]) == (30, 10)
    assert report["validation"]["tokens"] == sum(len(json.loads(line)["input_ids"]) for line in held_out.open())
    assert "Held out: 10 of 10 rows, " in capsys.readouterr().out


def test_by_default_nothing_is_held_out(run, dataset):
    result = run(dataset(row(1)))

    assert not (Path(result.data_path).parent / "validation.jsonl").exists()
    assert "validation_path" not in of(result)["data"]


def test_the_seed_decides_which_rows_and_the_same_seed_the_same_ones(sides, dataset):
    rows = dataset(*map(row, range(60)))

    first, again, other = (
        sides(rows, validation_split=0.2, data_output_dir=str(rows.parent.parent / name), **seed)[1]
        for name, seed in (("a", {}), ("b", {"seed": 42}), ("c", {"seed": 1}))
    )

    assert first == again != other and len(other) == 12


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_rows_of_the_same_content_are_never_on_both_sides(sides, dataset, share: float):
    duplicates = [
        row(number) | extra
        for number in range(12)
        for extra in (
            {},
            {"id": number},
            {"messages": [{"role": "user", "content": f" Question {number}? "}, ANSWER | {"weight": 1, "name": None}]},
        )
    ]

    trained_on, held_out = sides(dataset(*duplicates), validation_split=share)

    assert len(trained_on) + len(held_out) == 36 and trained_on and held_out
    assert not {*trained_on} & {*held_out}


def test_even_a_few_rows_are_split(sides, dataset):
    trained_on, held_out = sides(dataset(row(1), row(2)), validation_split=0.01)

    assert len(trained_on) == len(held_out) == 1


@pytest.mark.parametrize("rows", [[row(1)], [row(1), row(1, id=2)]])
def test_rows_that_cannot_be_split_are_reported(error_of, dataset, rows: list[dict]):
    path = dataset(*rows)

    assert error_of(path, validation_split=0.5) == (
        f"training_validation_split=0.5: the {len(rows)} rows of {path} cannot be split, as rows with the same content "
        "stay together; give more rows, or 0"
    )


def test_a_subset_has_the_requested_number_of_rows_in_order(sides, dataset, capsys):
    rows = dataset(*map(row, range(50)))

    trained_on, _ = sides_of_subset(sides, rows, 20)

    assert len(trained_on) == 20 and trained_on == sorted(trained_on) != list(range(20))
    assert len(sides_of_subset(sides, rows, 80)[0]) == 50
    assert "dataset_subset=80: the dataset has only 50 rows, so all are used" in capsys.readouterr().out


def sides_of_subset(sides: Callable, rows: Path, subset: int, **parameters: object) -> tuple[list[int], list[int]]:
    return sides(rows, dataset_subset=subset, **parameters)


def test_of_a_subset_a_share_is_held_out(sides, dataset):
    rows = dataset(*map(row, range(50)))

    alone, _ = sides_of_subset(sides, rows, 20)
    trained_on, held_out = sides_of_subset(sides, rows, 20, validation_split=0.25)

    assert sorted(trained_on + held_out) == alone and len(held_out) == 5


def test_tokenized_rows_are_split_too(run, dataset):
    rows = dataset(
        *(tokens(input_ids=[number, *range(6, 35)], labels=[-100] * 10 + list(range(15, 35))) for number in range(10))
    )

    result = run(rows, validation_split=0.3, use_processed_dataset=True)

    held_out = (Path(result.data_path).parent / "validation.jsonl").read_text().splitlines()
    assert (result.num_samples, len(held_out)) == (7, 3)


# Rows of their own


@pytest.fixture
def run_with(pvc: Path, tiny_model: Path) -> Callable[..., Preprocessed]:
    def preprocess(dataset: Path, held_out: Path, **parameters: object) -> Preprocessed:
        training = {"training_base_model": str(tiny_model), "training_max_seq_len": 256, **parameters}
        return preprocess_dataset(str(dataset), str(pvc), training, None, str(held_out))

    return preprocess


def test_rows_from_validation_path_are_held_out(run_with, dataset, numbers_in):
    rows, held_out = dataset(*map(row, range(5))), dataset(*map(row, range(5, 8)), name="held-out.jsonl")

    result = run_with(rows, held_out)

    assert numbers_in(Path(result.data_path)) == [0, 1, 2, 3, 4]
    assert numbers_in(Path(of(result)["data"]["validation_path"])) == [5, 6, 7]
    assert of(result)["about"]["validation_dataset"] == str(held_out)


def test_a_held_out_row_that_is_trained_on_is_left_out_with_a_warning(run_with, dataset, numbers_in, capsys):
    rows, held_out = dataset(*map(row, range(5))), dataset(row(4, id=1), row(5), name="held-out.jsonl")

    result = run_with(rows, held_out)

    assert numbers_in(Path(of(result)["data"]["validation_path"])) == [5]
    assert "Warning: 1 of the 2 held-out rows are left out, as they are also in the training data" in (
        capsys.readouterr().out
    )


def test_a_held_out_row_that_the_subset_leaves_out_of_the_training_stays(run_with, dataset, numbers_in):
    rows = dataset(*map(row, range(10)))
    held_out = dataset(*map(row, range(10)), name="held-out.jsonl")

    result = run_with(rows, held_out, dataset_subset=4)

    trained_on = numbers_in(Path(result.data_path))
    assert len(trained_on) == 4
    assert sorted(trained_on + numbers_in(Path(of(result)["data"]["validation_path"]))) == list(range(10))


@pytest.mark.parametrize(
    ("held_out", "parameters", "message"),
    [
        ([row(1)], {}, "validation_path={path}: all of its 1 rows are also in the training data"),
        (
            [row(9)],
            {"training_validation_split": 0.1},
            "training_validation_split=0.1 and validation_uri are both given",
        ),
        ([{"text": "x"}], {}, "held-out.jsonl, row 1: has no known format; it has 'text'"),
        ([row(9), {"messages": []}], {}, "held-out.jsonl, row 2: messages is an empty list"),
        (
            [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}],
            {},
            "dataset {path}: no row is left",
        ),
    ],
)
def test_held_out_rows_that_cannot_be_used_are_reported_and_nothing_is_left(
    run_with, dataset, pvc: Path, held_out: list[dict], parameters: dict, message: str
):
    path = dataset(*held_out, name="held-out.jsonl")

    with pytest.raises(InputError) as error:
        run_with(dataset(row(1), row(2)), path, **parameters)
    assert str(error.value).startswith(message.format(path=path))
    assert not pvc.exists() or not [file for file in pvc.rglob("*") if file.is_file()]


def test_what_decides_the_rows_decides_whether_data_is_used_again(run_with, run, dataset, tokenized):
    rows, held_out = dataset(*map(row, range(8))), dataset(row(9), name="held-out.jsonl")
    folder = {"training_data_output_dir": str(rows.parent.parent / "data")}
    first = run_with(rows, held_out, **folder, training_show_sample=False)
    assert run_with(rows, held_out, **folder, training_show_sample=False) == first and len(tokenized) == 1

    dataset(row(10), name="held-out.jsonl")
    assert run_with(rows, held_out, **folder, training_show_sample=False) != first and len(tokenized) == 2
    run(rows, data_output_dir=folder["training_data_output_dir"], show_sample=False)
    assert len(tokenized) == 3 and not (rows.parent.parent / "data" / "validation.jsonl").exists()
    run(rows, data_output_dir=folder["training_data_output_dir"], show_sample=False, validation_split=0.5)
    assert len(tokenized) == 4
    (rows.parent.parent / "data" / "validation.jsonl").unlink()
    run(rows, data_output_dir=folder["training_data_output_dir"], show_sample=False, validation_split=0.5)
    assert len(tokenized) == 5


# Columns


def test_a_table_of_questions_and_answers_is_trained_on_by_its_columns(run, dataset, error_of):
    rows = dataset(
        {"question": "Question 1?", "answer": ANSWER["content"], "context": "Be kind.", "id": 1},
        {"question": "Question 2?", "answer": ANSWER["content"], "context": None, "id": 2},
    )

    assert error_of(rows) == (
        "rows.jsonl, row 1: has no known format; it has 'question', 'answer', 'context', 'id'; set "
        'dataset_columns="user=question,assistant=answer,system=context" if that is what they mean'
    )
    assert run(rows, dataset_columns="user=question,assistant=answer,system=context").num_samples == 2
    with pytest.raises(InputError, match="row 1: has no 'query', which dataset_columns names; it has 'question', "):
        run(rows, dataset_columns="user=query,assistant=answer")
