import json
import shutil
from pathlib import Path

import pytest

from helpers.preprocess_rows import ANSWER, QUESTION
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.preprocess.training_data import preprocess_dataset


def test_a_rerun_uses_the_data_again(
    run, chat_rows: Path, tokenized: list, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    first = run(chat_rows)
    data = Path(first.data_path)
    before = data.read_bytes(), data.stat().st_mtime_ns
    told = capsys.readouterr().out.splitlines()
    assert told.pop(0) == "Format of the rows: messages (chat)"

    assert run(chat_rows) == first
    assert (data.read_bytes(), data.stat().st_mtime_ns) == before and len(tokenized) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"The data in {data.parent} was made from the same rows, model and parameters: used again",
        *told,
    ]
    # The same rows elsewhere, as another copy of an artifact.
    (tmp_path / "copy").mkdir()
    copy = Path(shutil.copy(chat_rows, tmp_path / "copy" / chat_rows.name))
    assert run(copy).data_path == first.data_path and len(tokenized) == 1


def test_another_training_on_the_same_data_uses_it_again(run, chat_rows: Path, tokenized: list, tmp_path: Path):
    folder = str(tmp_path / "tokens")
    first = run(chat_rows, data_output_dir=folder)

    second = run(chat_rows, data_output_dir=folder, learning_rate=1e-3, num_epochs=5, envs="A=1")

    assert len(tokenized) == 1 and second.data_path == first.data_path
    configs = [json.loads(result.training_config) for result in (first, second)]
    assert configs[0]["osft"]["ckpt_output_dir"] != configs[1]["osft"]["ckpt_output_dir"]
    assert configs[0]["about"] == configs[1]["about"]


@pytest.mark.parametrize("changed", ["a row", "a file more", "the template", "max_seq_len", "unmask_messages"])
def test_other_data_models_and_lengths_are_tokenized_again(
    run, dataset, tmp_path: Path, model: Path, tokenized: list, changed: str
):
    rows = dataset(*[[QUESTION, ANSWER]] * 3).parent
    parameters = {"base_model": str(model), "data_output_dir": str(tmp_path / "tokens")}
    first = run(rows, **parameters)
    before, fingerprint = Path(first.data_path).read_bytes(), json.loads(first.training_config)["fingerprint"]

    if changed == "a row":
        dataset(*[[QUESTION, ANSWER]] * 2, [QUESTION, ANSWER | {"content": ANSWER["content"].replace("V", "W")}])
    elif changed == "a file more":
        dataset([QUESTION, ANSWER], name="more.jsonl")
    elif changed == "the template":
        file = model / "chat_template.jinja"
        file.write_text(file.read_text().replace("message['content'] +", "message['content'] + '!' +"))
    elif changed == "max_seq_len":
        parameters["max_seq_len"] = 255
    else:
        parameters[changed] = True
    second = run(rows, **parameters)

    assert len(tokenized) == 2 and second.data_path == first.data_path
    assert json.loads(second.training_config)["fingerprint"] != fingerprint
    # Other lengths change nothing in these rows; all else does.
    assert (Path(second.data_path).read_bytes() == before) == (changed == "max_seq_len")


@pytest.mark.parametrize("broken", ["data is gone", "data is cut", "manifest of another"])
def test_data_that_is_not_what_its_manifest_says_is_made_again(run, chat_rows: Path, tokenized: list, broken: str):
    first = run(chat_rows)
    data, manifest = Path(first.data_path), Path(first.data_path).parent / "manifest.json"
    before, text = data.read_bytes(), manifest.read_text()

    if broken == "data is gone":
        data.unlink()
    elif broken == "data is cut":
        data.write_bytes(b"".join(before.splitlines(keepends=True)[:3]))
    else:
        data.write_bytes(b"cut")
        manifest.write_text(json.dumps(json.loads(text) | {"fingerprint": "0" * 64}))

    assert run(chat_rows) == first and len(tokenized) == 2
    assert data.read_bytes() == before and manifest.read_text() == text


@pytest.mark.parametrize("broken", ["gone", "cut"])
def test_held_out_rows_that_are_not_whole_are_made_again(run, chat_rows: Path, tokenized: list, broken: str):
    first = run(chat_rows, validation_split=0.25)
    held_out = Path(first.data_path).with_name("validation.jsonl")
    before = held_out.read_bytes()
    held_out.unlink() if broken == "gone" else held_out.write_bytes(before.splitlines(keepends=True)[0])

    assert run(chat_rows, validation_split=0.25) == first
    assert held_out.read_bytes() == before and len(tokenized) == 2


@pytest.mark.parametrize("broken", ["manifest is gone", "manifest is cut"])
def test_data_without_its_manifest_may_be_anybodys_and_stays(run, chat_rows: Path, broken: str):
    data = Path(run(chat_rows).data_path)
    manifest = data.parent / "manifest.json"
    before, text = data.read_bytes(), manifest.read_text()
    manifest.unlink()
    if broken == "manifest is cut":
        manifest.write_text(text[:40])

    with pytest.raises(InputError, match=r"holds data\.jsonl, .*which preprocess did not write and would overwrite"):
        run(chat_rows)
    assert data.read_bytes() == before


def test_after_a_failure_the_earlier_data_is_not_taken_for_the_new_rows_and_stays_for_the_old(
    run, dataset, tmp_path: Path, tokenized: list
):
    folder = str(tmp_path / "tokens")
    good = dataset([QUESTION, ANSWER])
    first = run(good, data_output_dir=folder)
    before = Path(first.data_path).read_bytes()

    for _ in range(2):
        with pytest.raises(InputError):
            run(dataset([QUESTION], name="bad.jsonl"), data_output_dir=folder)

    assert run(good, data_output_dir=folder) == first and len(tokenized) == 3
    assert Path(first.data_path).read_bytes() == before


def test_the_same_rows_under_another_name_are_the_same_training(tmp_path, tiny_model, chat_rows):
    training = {"training_base_model": str(tiny_model)}
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(chat_rows.read_bytes())

    first = preprocess_dataset(str(chat_rows), str(tmp_path / "pvc"), training)
    second = preprocess_dataset(str(copy), str(tmp_path / "pvc"), training)

    assert first.data_path == second.data_path


def test_the_sample_comes_and_goes_with_the_switch_and_the_data_stays(
    run, chat_rows: Path, tokenized: list, tmp_path: Path
):
    folder = tmp_path / "tokens"
    shown = []
    for show in (False, True, True, False):
        result = run(chat_rows, data_output_dir=str(folder), show_sample=show)
        shown.append("sample" in json.loads((folder / "report.json").read_text()))
        assert '"sample"' not in (folder / "manifest.json").read_text()

    assert shown == [False, True, True, False]
    # Once for the rows, and once more to decode the first sample of the data that was there.
    assert len(tokenized) == 2
    assert result.num_samples == 32


@pytest.mark.parametrize("broken", ["gone", "cut", "of other rows"])
def test_a_report_that_is_no_longer_that_of_the_data_is_written_again(run, chat_rows: Path, broken: str):
    first = run(chat_rows)
    file = Path(first.data_path).parent / "report.json"
    text = file.read_text()
    if broken == "gone":
        file.unlink()
    else:
        file.write_text(
            text[:40] if broken == "cut" else json.dumps(json.loads(text) | {"made_from": "0" * 64, "sample": "other"})
        )

    assert run(chat_rows) == first
    assert file.read_text() == text
