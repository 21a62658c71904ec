"""A full disk is the user's to mend, and told in a sentence."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.sizes import size_text


@contextmanager
def explaining_a_full_disk(place: Path, what: str) -> Iterator[None]:
    """Turns the operating system's "no space left", or a used up quota, into an InputError.

    Args:
        place: what is written, or the folder that it is written to.
        what: what does not fit, as the error begins.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        folder = next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
        free = size_text(shutil.disk_usage(folder).free)
        raise InputError(f"{what}: {error.strerror} ({free} free)") from None
