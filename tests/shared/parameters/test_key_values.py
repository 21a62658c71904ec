import pytest

from kfp_osft.shared.parameters.key_values import as_number_or_bool, parse_key_values
from kfp_osft.shared.reporting.errors import InputError


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", {}),
        ("   ", {}),
        ("\n", {}),
        ("A=1", {"A": "1"}),
        ("A=1,B=2", {"A": "1", "B": "2"}),
        (" A = 1 ,\n B = 2 ", {"A": "1", "B": "2"}),
        ("A=", {"A": ""}),
        ("A=b=c", {"A": "b=c"}),
        ("URL=http://host:80/?q=1&r=2", {"URL": "http://host:80/?q=1&r=2"}),
        ("LIST=a\\,b\\,c,B=2", {"LIST": "a,b,c", "B": "2"}),
        ("A=two words", {"A": "two words"}),
        ("A=C:\\dir", {"A": "C:\\dir"}),
        ("Key=x,KEY=y", {"Key": "x", "KEY": "y"}),
    ],
)
def test_a_list_becomes_pairs_in_its_order(text, pairs):
    assert list(parse_key_values("training_envs", text).items()) == list(pairs.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A", "training_envs: an item has no '=' (the first one); expected KEY=VAL,KEY=VAL"),
        ("A=1,B", "training_envs: an item has no '=' (after 'A'); expected KEY=VAL,KEY=VAL"),
        ("A=1,", "training_envs: an item has no '=' (after 'A'); expected KEY=VAL,KEY=VAL"),
        (",A=1", "training_envs: an item has no '=' (the first one); expected KEY=VAL,KEY=VAL"),
        ("A=1,,B=2", "training_envs: an item has no '=' (after 'A'); expected KEY=VAL,KEY=VAL"),
        ("A:1;B:2", "training_envs: an item has no '=' (the first one); expected KEY=VAL,KEY=VAL"),
        ("=1", "training_envs: an item has no key before '=' (the first one); expected KEY=VAL,KEY=VAL"),
        ("A=1, =2", "training_envs: an item has no key before '=' (after 'A'); expected KEY=VAL,KEY=VAL"),
        ("A=1,B=2,A=1", "training_envs: the key 'A' is given twice"),
    ],
)
def test_a_malformed_list_is_an_error_that_says_where(text, message):
    with pytest.raises(InputError) as error:
        parse_key_values("training_envs", text)
    assert str(error.value) == message


@pytest.mark.parametrize("text", ["A=1,hf_secret", "hf_secret", "A=hf_secret,=x", "A=hf_secret,A=hf_secret"])
def test_an_error_repeats_no_value(text):
    with pytest.raises(InputError) as error:
        parse_key_values("training_envs", text)
    assert "hf_secret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("0.5", 0.5),
        ("1e-6", 1e-6),
        ("5.", 5.0),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("", ""),
        ("cosine", "cosine"),
        ("1-sqrt", "1-sqrt"),
        ("yes", "yes"),
        ("None", "None"),
        ("1_000", "1_000"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("-Infinity", "-Infinity"),
        ("0x10", "0x10"),
        ("1e400", "1e400"),
    ],
)
def test_only_what_is_meant_as_a_number_or_a_boolean_becomes_one(text, value):
    read = as_number_or_bool(text)
    assert (type(read), read) == (type(value), value)
