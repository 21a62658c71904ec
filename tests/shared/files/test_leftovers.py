import os
import subprocess
import sys
from pathlib import Path

import pytest

from kfp_osft.shared.files import leftovers
from kfp_osft.shared.files.leftovers import mark_of_this_process, remove_leftovers


def test_what_nobody_has_written_to_for_a_day_goes(tmp_path: Path):
    old_file, old_folder, active_folder, young_file = (tmp_path / name for name in "abcd")
    old_file.touch()
    young_file.touch()
    for folder in (old_folder, active_folder):
        (folder / "below").mkdir(parents=True)
        (folder / "below" / "part").touch()
    for path in (old_file, old_folder / "below" / "part", old_folder / "below", old_folder, active_folder):
        os.utime(path, (0, 0))

    remove_leftovers(tmp_path.iterdir())

    assert sorted(tmp_path.iterdir()) == [active_folder, young_file]


def test_a_link_goes_and_what_it_leads_to_stays(tmp_path: Path):
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    os.utime(link, (0, 0), follow_symlinks=False)
    os.utime(folder, (0, 0))

    remove_leftovers([link])

    assert list(tmp_path.iterdir()) == [folder]


def test_what_another_process_removes_meanwhile_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    vanishes = tmp_path / "vanishes"
    vanishes.touch()
    os.utime(vanishes, (0, 0))
    now = leftovers.time.time()

    def somebody_was_faster() -> float:
        vanishes.unlink()
        return now

    monkeypatch.setattr(leftovers.time, "time", somebody_was_faster)

    remove_leftovers([tmp_path / "never there", vanishes])


def test_what_bears_the_mark_of_a_living_process_stays_however_old_and_that_of_a_dead_one_goes(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ours = mark_of_this_process()
    old, left = tmp_path / f"{ours}old", tmp_path / f"{ours.replace(f'-{os.getpid()}-', f'-{dead.pid}-')}new"
    for folder in (old, left):
        folder.mkdir()
    os.utime(old, (0, 0))

    remove_leftovers([old, left])

    assert old.exists() and not left.exists()
