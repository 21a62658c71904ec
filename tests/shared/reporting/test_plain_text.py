import pytest

from kfp_osft.shared.reporting.plain_text import plain_text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Qwen2-0.5B · été 漢字 \U0001f600", "Qwen2-0.5B · été 漢字 \U0001f600"),
        ("a\nb\tc", "a b c"),
        ("a\x07b\x00\x9b", "a\ufffdb\ufffd\ufffd"),
        ("a\udcff\ud83d\uffff", "a\ufffd\ufffd\ufffd"),
        ("a\u202eb\u2066", "a\ufffdb\ufffd"),
    ],
)
def test_a_name_can_be_shown_and_encoded(text: str, plain: str):
    assert plain_text(text) == plain
    plain_text(text).encode()
