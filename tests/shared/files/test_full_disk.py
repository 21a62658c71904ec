"""What a full disk says."""

import errno
import os
from pathlib import Path

import pytest

from kfp_osft.shared.files.full_disk import explaining_a_full_disk
from kfp_osft.shared.reporting.errors import InputError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_gets_full_is_told_and_other_errors_are_not_hidden(tmp_path: Path, number: int):
    with (
        pytest.raises(InputError, match=rf"^the model: {os.strerror(number)} \(.* free\)$"),
        explaining_a_full_disk(tmp_path / "not/made/yet", "the model"),
    ):
        raise OSError(number, os.strerror(number))
    with pytest.raises(PermissionError), explaining_a_full_disk(tmp_path / "not/made/yet", "the model"):
        raise PermissionError(errno.EPERM, "x")
