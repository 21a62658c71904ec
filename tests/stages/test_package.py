import ast
import bz2
import io
import re
import shutil
import tarfile
import tokenize
from pathlib import Path

from kfp_osft.stages.find_package import digest_of, package_files
from kfp_osft.stages.package import FOLDER, archive_digest, config_map_name, package_archive, package_digest


def members():
    with tarfile.open(fileobj=io.BytesIO(bz2.decompress(package_archive()))) as archive:
        return archive.getmembers()


def test_the_archive_has_the_stages_and_what_they_share_but_no_pipelines_and_no_readme():
    names = [member.name for member in members()]
    assert {name.split("/")[1] for name in names} == {"__init__.py", "shared", "stages"}
    assert all(name.endswith(".py") for name in names)
    assert "kfp_osft/stages/preprocess/training_data.py" in names


def test_the_archive_is_small_enough_for_kubectl_apply_as_a_config_map():
    # kubectl keeps a copy of what it applies in an annotation of at most 262,144 bytes; base64 makes 4 of 3.
    assert len(package_archive()) * 4 / 3 < 200_000


def test_the_config_maps_name_is_one_for_a_volume_too():
    assert re.fullmatch(r"kfp-osft-0-1-0-[0-9a-f]{10}", config_map_name())


def test_the_archive_tells_nothing_of_the_machine_it_was_made_on():
    for member in members():
        owner = (member.uid, member.gid, member.uname, member.gname)
        assert (member.mtime, owner, member.mode, member.isfile()) == (0, (0, 0, "", ""), 0o644, True)


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


def test_the_archives_modules_are_the_sources_without_docstrings_and_comments_line_for_line(tmp_path: Path):
    file = tmp_path / "archive"
    file.write_bytes(package_archive())
    archived, sources = package_files(file), package_files(FOLDER)
    assert archived.keys() == sources.keys()
    for name, content in archived.items():
        assert content.count(b"\n") == sources[name].count(b"\n")
        assert _code(content) == _code(sources[name]), name
        assert not [
            token for token in tokenize.tokenize(io.BytesIO(content).readline) if token.type == tokenize.COMMENT
        ]


def _code(source: bytes) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.dump(tree)
