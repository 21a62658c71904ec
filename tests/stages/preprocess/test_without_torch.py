import subprocess
import sys
from pathlib import Path

import pytest

# Says whether torch was imported, and writes the data.
PROGRAM = """
import sys
from kfp_osft.stages.preprocess.training_data import preprocess_dataset
rows, model, folder, own_process, scheduler = sys.argv[1:]
training = {"training_base_model": model, "training_max_seq_len": 256, "training_data_output_dir": folder}
if scheduler:
    training |= {"training_lr_scheduler": "cosine_with_min_lr", "training_lr_scheduler_kwargs": scheduler}
preprocess_dataset(rows, folder + "/pvc", training, own_process=bool(own_process))
print("torch:", sys.modules.get("torch") is not None)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own_process", "scheduler", "has_torch"), [("yes", "", False), ("", "", True), ("yes", "min_lr=0", True)]
)
def test_a_process_that_only_tokenizes_does_without_torch_and_writes_the_same(
    tmp_path: Path, tiny_model: Path, chat_rows: Path, own_process: str, scheduler: str, has_torch: bool
):
    from kfp_osft.stages.preprocess.training_data import preprocess_dataset

    here = preprocess_dataset(
        str(chat_rows), str(tmp_path / "pvc"), {"training_base_model": str(tiny_model), "training_max_seq_len": 256}
    )

    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            str(chat_rows),
            str(tiny_model),
            str(tmp_path / "data"),
            own_process,
            scheduler,
        ],
        capture_output=True,
        text=True,
        check=True,
    )

    assert ran.stdout.splitlines()[-1] == f"torch: {has_torch}"
    assert "PyTorch" not in ran.stdout + ran.stderr
    assert (tmp_path / "data" / "data.jsonl").read_bytes() == Path(here.data_path).read_bytes()
