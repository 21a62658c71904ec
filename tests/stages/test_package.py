import ast
import bz2
import io
import json
import re
import shutil
import tokenize
from pathlib import Path

from kfp_osft.stages.find_package import digest_of, package_files
from kfp_osft.stages.package import FOLDER, archive_digest, config_map_name, package_archive, package_digest, packed


def archived() -> dict[str, str]:
    return json.loads(bz2.decompress(package_archive()))


def test_the_archive_has_the_stages_and_what_they_share_but_no_pipelines_and_no_readme():
    names = archived().keys()
    assert {name.split("/")[1] for name in names} == {"__init__.py", "shared", "stages"}
    assert all(name.endswith(".py") for name in names)
    assert "kfp_osft/stages/preprocess/training_data.py" in names


def test_the_archives_names_stay_below_the_folder_that_they_are_written_to():
    for name in archived():
        assert re.fullmatch(r"kfp_osft(/\w+)+\.py", name), name


def test_the_archive_is_small_enough_for_kubectl_apply_as_a_config_map():
    # kubectl keeps a copy of what it applies in an annotation of at most 262,144 bytes; base64 makes 4 of 3.
    assert len(package_archive()) * 4 / 3 < 200_000


def test_the_config_maps_name_is_one_for_a_volume_too():
    assert re.fullmatch(r"kfp-osft-0-1-0-[0-9a-f]{10}", config_map_name())


def test_the_archives_bytes_depend_on_nothing_but_names_and_sources():
    files = archived()
    assert packed(dict(reversed(files.items()))) == package_archive()
    assert list(files) == sorted(files)


def test_the_digest_tells_apart_which_text_is_a_name_and_which_a_source():
    digests = {digest_of(files) for files in ({}, {"a": "bc"}, {"ab": "c"}, {"a": "b", "c": ""}, {"a": "", "c": "b"})}
    assert len(digests) == 5
    assert digest_of({"a": "1", "b": "2"}) == digest_of({"b": "2", "a": "1"})


def test_the_archive_has_the_digest_that_stages_ask_for(tmp_path):
    file = tmp_path / "archive"
    file.write_bytes(package_archive())
    assert digest_of(package_files(file)) == archive_digest()


def test_another_folder_other_modes_and_caches_give_the_same_digest_and_another_byte_another(tmp_path):
    copy = tmp_path / "kfp_osft"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "stages/__pycache__").mkdir()
    (copy / "stages/__pycache__/component.cpython-311.pyc").write_bytes(b"cache")
    (copy / "stages/notes.txt").write_text("not a module")
    for file in copy.rglob("*.py"):
        file.chmod(0o600)
    assert digest_of(package_files(copy)) == package_digest()

    with (copy / "shared/reporting/log.py").open("a") as file:
        file.write("\n")
    assert digest_of(package_files(copy)) != package_digest()


def test_a_folder_without_the_package_holds_no_files(tmp_path: Path):
    assert package_files(tmp_path) == package_files(tmp_path / "nowhere") == {}


def test_the_archives_modules_are_the_sources_without_docstrings_and_comments_line_for_line():
    sources = package_files(FOLDER)
    for name, source in archived().items():
        assert source.count("\n") == sources[name].count("\n")
        assert _code(source) == _code(sources[name]), name
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        assert not [token for token in tokens if token.type == tokenize.COMMENT]


def _code(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.dump(tree)
