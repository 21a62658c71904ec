import errno

import pytest

from kfp_osft.shared.reporting.errors import system_problem


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EDQUOT, "", "/data/x"), "Disk quota exceeded: /data/x"),
        (PermissionError(errno.EACCES, "", b"/data/\xff"), "Permission denied: /data/\udcff"),
        (OSError(errno.ENAMETOOLONG, "", "x" * 5000), f"File name too long: {'x' * 200} ..."),
        (MemoryError(), "out of memory"),
        # Of a library in Rust.
        (RuntimeError("I/O error: Read-only file system (os error 30)"), "Read-only file system"),
        (FileNotFoundError(errno.ENOENT, "", "/data/x"), None),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), None),
        (ValueError("x"), None),
    ],
)
def test_what_the_system_refuses_is_a_sentence_and_a_mistake_is_not(error: BaseException, sentence: str | None):
    assert system_problem(error) == sentence
