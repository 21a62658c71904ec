"""Local runs: two in one output folder, and what killed ones left."""

import subprocess
import sys
from pathlib import Path

import pytest

from kfp_osft.pipelines.local import run as local_run
from kfp_osft.shared.files.ownership import OWNER_FILE
from kfp_osft.shared.reporting.errors import InputError

FIRST = """
import sys
from pathlib import Path
from kfp_osft.pipelines.local import run as local_run
def stages(*arguments):
    print("running", flush=True)
    sys.stdin.read()
    sys.exit()
local_run._run = stages
local_run.run_locally(Path(sys.argv[1]), "org/rows", "train", {"training_base_model": "org/model"})
"""


def test_a_second_run_in_one_output_folder_is_refused_until_the_first_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Runs(Exception):
        pass

    def runs(*arguments) -> None:
        raise Runs

    monkeypatch.setattr(local_run, "_run", runs)
    output = tmp_path / "out"
    command = [sys.executable, "-c", FIRST, str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout and first.stdin and first.stdout.readline() == "running\n"
        with pytest.raises(InputError) as refused:
            local_run.run_locally(output, "org/rows", "train", {"training_base_model": "org/model"})
        first.stdin.close()
    assert str(refused.value).startswith(f"--output-dir={output} is in use by kfp-osft run, process {first.pid} on ")
    assert str(refused.value).endswith("; give another folder, or wait until it has ended")

    with pytest.raises(Runs):
        local_run.run_locally(output, "org/rows", "train", {"training_base_model": "org/model"})
    assert not (output / OWNER_FILE).exists()
