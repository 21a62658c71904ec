import re
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("then", "how"),
    [
        ("print('done')", "complete"),
        ("raise ValueError('no')", "failed"),
        ("raise InputError('no')", "failed"),
    ],
)
def test_a_stage_says_at_its_end_how_it_went_and_how_long_it_took(then, how):
    program = (
        "from kfp_osft.shared.reporting.errors import InputError\n"
        f"from kfp_osft.shared.reporting.stage import begin_stage\nbegin_stage()\n{then}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert re.fullmatch(rf"Stage {how} after \d\.\d s", done.stdout.splitlines()[-1])
    assert (done.returncode == 0) is (how == "complete")
