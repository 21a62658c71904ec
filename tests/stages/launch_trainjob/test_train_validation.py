import json
from pathlib import Path

import pytest
from mini_trainer import sampler

from kfp_osft.stages.launch_trainjob.train_validation import BestModels, validate_on


def rows(file: Path, numbers: range) -> Path:
    lines = [{"input_ids": [number] * 4, "labels": [number] * 4, "len": 4} for number in numbers]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def first_tokens(loader) -> set[int]:
    return {int(row["input_ids"][0]) for row in loader.dataset}


def test_the_rows_trained_on_stay_whole_and_the_held_out_ones_are_validated_on(tmp_path, monkeypatch):
    # As mini-trainer before 0.9 is: it knows no other way than a share of the rows.
    monkeypatch.setattr(sampler, "get_data_loader", sampler.get_data_loader)
    trained_on, held_out = rows(tmp_path / "data.jsonl", range(8)), rows(tmp_path / "validation.jsonl", range(20, 23))

    validate_on(str(held_out))
    arguments = {"batch_size": 2, "max_tokens_per_gpu": 64, "seed": 1, "rank": 0, "world_size": 1}
    training, validation = sampler.get_data_loader(data_path=str(trained_on), validation_split=1e-9, **arguments)

    assert first_tokens(training) == {*range(8)}
    assert first_tokens(validation) == {20, 21, 22}


@pytest.mark.parametrize(("complete", "left"), [(True, {"80.0"}), (False, {"24.0", "80.0"})])
def test_of_the_best_models_the_last_one_stays_and_until_the_end_the_one_before_it(tmp_path, complete, left):
    folder = tmp_path / "hf_format"
    for samples in ("8.0", "24.0", "80.0"):
        (folder / f"samples_{samples}_best_val_loss").mkdir(parents=True)
    (folder / "samples_8.0").mkdir()

    BestModels(str(tmp_path)).end(complete)

    assert {path.name for path in folder.iterdir()} == {
        "samples_8.0",
        *(f"samples_{each}_best_val_loss" for each in left),
    }
