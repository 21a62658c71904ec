import pytest

from kfp_osft.shared.parameters.kubernetes_syntax import (
    is_env_name,
    is_label_key,
    is_label_value,
    is_name,
    is_positive_quantity,
)


@pytest.mark.parametrize(
    "text", ["8", "500m", "0.5", ".5", "1.5Gi", "32Gi", "64G", "1Ki", "100k", "1e3", "1E3", "12e-1", "+8", "2Ti", "1P"]
)
def test_a_positive_quantity_is_one(text):
    assert is_positive_quantity(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "0Gi",
        "0.0",
        "-1",
        "-500m",
        "8 ",
        " 8",
        "32 GB",
        "32GB",
        "32gi",
        "32GiB",
        "Gi",
        "1.2.3",
        "1,5",
        "1K",
        "eight",
        "auto",
        "8\n",
        "1e",
        "0x8",
        "1_000",
        "\u0668",
    ],
)
def test_what_is_no_positive_quantity_is_refused(text):
    assert not is_positive_quantity(text)


@pytest.mark.parametrize("text", ["a", "training-hub", "a.b-c.d0", "0", "a" * 253])
def test_a_dns_subdomain_is_a_name(text):
    assert is_name(text)


@pytest.mark.parametrize(
    "text", ["", "A", "training_hub", "-a", "a-", ".a", "a.", "a..b", "a.-b", "a b", "a/b", "a\n", "\u00e4", "a" * 254]
)
def test_what_is_no_dns_subdomain_is_no_name(text):
    assert not is_name(text)


@pytest.mark.parametrize(
    "text", ["a", "Team", "a_b.c-d", "0", "example.com/team", "kueue.x-k8s.io/queue-name", "x" * 63, "a.b/" + "x" * 63]
)
def test_a_qualified_name_is_a_label_key(text):
    assert is_label_key(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/a",
        "a/",
        "a/b/c",
        "-a",
        "a-",
        "_a",
        "a b",
        "a:b",
        "x" * 64,
        "A.com/team",
        "a_b/team",
        "a\n",
        "\u00e4",
        "x" * 254 + "/a",
    ],
)
def test_what_is_no_qualified_name_is_no_label_key(text):
    assert not is_label_key(text)


@pytest.mark.parametrize("text", ["", "a", "A1", "a_b.c-d", "x" * 63])
def test_a_label_value_may_be_empty(text):
    assert is_label_value(text)


@pytest.mark.parametrize("text", [" ", "-a", "a-", "a.", "a b", "a/b", "a=b", "x" * 64, "a\n", "\u00e4"])
def test_what_is_no_label_value_is_refused(text):
    assert not is_label_value(text)


@pytest.mark.parametrize("text", ["A", "_", "a1", "NCCL_DEBUG", "_X2"])
def test_a_c_identifier_is_a_variable_name(text):
    assert is_env_name(text)


@pytest.mark.parametrize("text", ["", "1A", "A-B", "A.B", "A B", "A\n", "A=", "\u00c4"])
def test_what_is_no_c_identifier_is_no_variable_name(text):
    assert not is_env_name(text)
