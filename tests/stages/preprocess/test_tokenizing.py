import importlib
import json
from pathlib import Path

import pytest

from helpers.chat_rows import ANSWER, QUESTION, said
from helpers.tokenizer_families import FAMILIES, make_model_folder, make_tokenizer
from kfp_osft.stages.preprocess.training_data import preprocess_dataset

# By its name: in the package `stages`, the stage hides its folder.
tokenizing = importlib.import_module("kfp_osft.stages.preprocess.tokenizing")


def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = make_model_folder(tmp_path / "model", make_tokenizer(FAMILIES["chatml"]))
    rows = [
        [said("user", f"{QUESTION} {number}"), said("assistant", f"{ANSWER} " * (number % 40))] for number in range(90)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"messages": [*row, *row[:1], said("assistant", "Yes.")]}) + "\n" for row in rows)
    )
    monkeypatch.setattr(tokenizing, "_ROWS_OF_A_PIECE", 7)
    made = []
    for processes in (1, 2, 3):
        monkeypatch.setattr(tokenizing, "usable_cores", lambda processes=processes: processes)
        training = {
            "training_base_model": str(model),
            "training_max_seq_len": 400,
            "training_max_dropped_share": 1.0,
            "training_data_output_dir": str(tmp_path / f"data-{processes}"),
        }
        result = preprocess_dataset(str(path), str(tmp_path / f"pvc-{processes}"), training, own_process=True)
        report = json.loads(Path(result.data_path).with_name("report.json").read_text())
        made.append((Path(result.data_path).read_bytes(), report))

    assert made[0][1]["too_long"] > 1
    assert made[1] == made[0] and made[2] == made[0]
