import pytest

from kfp_osft.pipelines.yaml_file import read_yaml
from kfp_osft.shared.reporting.errors import InputError


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        ("a: 1\nb: {a: 2}", {"a": 1, "b": {"a": 2}}),
        ("- {a: 1}\n- {a: 2}", [{"a": 1}, {"a": 2}]),
        ("x: &x {a: 1}\ny: *x\nz: {<<: *x, b: 2}", {"x": {"a": 1}, "y": {"a": 1}, "z": {"a": 1, "b": 2}}),
    ],
)
def test_a_file_is_read_as_yaml_has_it(tmp_path, text, content):
    (tmp_path / "x.yaml").write_text(text)
    assert read_yaml(tmp_path / "x.yaml") == content


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"a: 1\nb: 2\na: 3", "a stands twice, in lines 1 and 3"),
        (b"- x: {b: 1,\n  b: 2}", "b stands twice, in lines 1 and 2"),
        (b"a: [", "is not valid YAML in line 1: expected the node content"),
        (b"a: &x [1, *x]", "the alias in line 1 contains itself"),
        (b"a: 1\n--- \nb: 2", "is not valid YAML in line 2: but found another document"),
        (b"a: 2026-13-01", "is not valid YAML: month must be in 1..12"),
        (b"{[1]: 2}", "is not valid YAML in line 1: found unhashable key"),
        (b"a: \xff", "is not UTF-8"),
        (b"[" * 5000, "is nested too deeply"),
        (b"!!python/object:os.system {}", "is not valid YAML in line 1: could not determine a constructor"),
    ],
)
def test_what_is_no_tree_of_values_is_refused(tmp_path, text, problem):
    (tmp_path / "x.yaml").write_bytes(text)
    with pytest.raises(InputError) as caught:
        read_yaml(tmp_path / "x.yaml")
    assert problem in str(caught.value) and str(caught.value).startswith(str(tmp_path / "x.yaml"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml cannot be read: No such file or directory"):
        read_yaml(tmp_path / "none.yaml")
