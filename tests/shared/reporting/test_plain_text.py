import pytest

from kfp_osft.shared.reporting.plain_text import markdown_text, plain_text


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


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("max_seq_len", "max_seq_len"),
        ("_a_ *b* `c`\n| d |", r"\_a\_ \*b\* \`c\` \| d \|"),
        ("<b>#1 costs $5 & more", r"&lt;b&gt;\#1 costs \$5 &amp; more"),
        (0.25, "0.25"),
    ],
)
def test_a_name_stays_text_in_markdown(text: object, markdown: str):
    assert markdown_text(text) == markdown
