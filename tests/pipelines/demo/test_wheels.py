import hashlib
from pathlib import Path

import pytest

from helpers.wheels import make_wheel
from kfp_osft.pipelines.demo.wheels import Wheel, cache_dir, fetch_wheel
from kfp_osft.shared.reporting.errors import InputError


def test_a_wheel_is_fetched_once_without_its_dependencies(index, tmp_path, capsys):
    wheel = make_wheel(index, "thing", {"thing.py": "x = 1\n"})
    file = fetch_wheel(wheel, tmp_path / "cache")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == wheel.sha256
    assert capsys.readouterr().out == "fetching thing==1.0 from the package index: 0.1 MB, once\n"

    (index / file.name).unlink()
    assert fetch_wheel(wheel, tmp_path / "cache") == file
    assert capsys.readouterr().out == ""


def test_a_damaged_wheel_in_the_cache_is_fetched_again(index, tmp_path):
    wheel = make_wheel(index, "thing", {"thing.py": "x = 1\n"})
    file = fetch_wheel(wheel, tmp_path / "cache")
    file.write_bytes(file.read_bytes()[:-1])
    assert fetch_wheel(wheel, tmp_path / "cache") == file
    assert hashlib.sha256(file.read_bytes()).hexdigest() == wheel.sha256


def test_a_wheel_with_another_hash_is_an_error_and_leaves_nothing_in_the_cache(index, tmp_path):
    make_wheel(index, "thing", {"thing.py": "x = 1\n"})
    with pytest.raises(InputError, match=r"pip could not fetch thing==1\.0: .*DO NOT MATCH THE HASHES"):
        fetch_wheel(Wheel("thing==1.0", "0" * 64), tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_wheel_that_no_index_has_is_one_line_with_pips_reason(index, tmp_path):
    with pytest.raises(InputError, match=r"thing==1\.0: .*No matching distribution") as error:
        fetch_wheel(Wheel("thing==1.0", "0" * 64), tmp_path / "cache")
    assert "\n" not in str(error.value)


def test_without_pip_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(InputError, match="No module named pip; install it.*ensurepip"):
        fetch_wheel(Wheel("thing==1.0", "0" * 64), tmp_path / "cache")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"KFP_OSFT_CACHE": "/own", "XDG_CACHE_HOME": "/common"}, "/own"),
        ({"XDG_CACHE_HOME": "/common"}, "/common/kfp-osft"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/somebody/.cache/kfp-osft"),
        ({}, "/home/somebody/.cache/kfp-osft"),
    ],
)
def test_the_cache_is_where_the_environment_says(monkeypatch, environment, expected):
    for variable in ("KFP_OSFT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in {"HOME": "/home/somebody", **environment}.items():
        monkeypatch.setenv(variable, value)
    assert cache_dir() == Path(expected)
