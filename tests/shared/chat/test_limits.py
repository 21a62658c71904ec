"""A chat template is somebody else's program: it ends, and says so in a sentence."""

import signal
import time

import pytest

from helpers.tiny_model import CHAT_TEMPLATE
from helpers.tokenizer_families import FAMILIES, make_tokenizer
from kfp_osft.shared.chat import limits
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.chat_tokens import ChatTokenizer
from kfp_osft.shared.rows.messages import Conversation, Problems

CONVERSATION = Conversation(
    "rows.jsonl, row 1",
    [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}],
    frozenset({"assistant"}),
)
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}"
GROWING = "{% set ns = namespace(s='x' * 999) %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"


def said_of(template: str) -> str:
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = template + CHAT_TEMPLATE
    with pytest.raises(InputError) as error:
        list(ChatTokenizer(tokenizer).samples([CONVERSATION]))
    return str(error.value)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (ENDLESS + "{% endfor %}", "takes longer than 0.3 s of CPU time"),
        (ENDLESS + "x{% endfor %}", "takes longer than 0.3 s of CPU time"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "maximum recursion depth"),
        ("{{ 'x' * 10 ** 11 }}", "memory"),
        ("{{ '%999999999999d' | format(1) }}", ""),
        ("{{ 'x' | center(10 ** 11) }}", "memory"),
        (GROWING, "memory"),
        ("{{ 'x' * 70000000 }}", "writes 70,000,0"),
        ("{{ 9 ** (9 ** 9) }}", "a number of more than 65,536 bits"),
        ("{% set ns = namespace(n=9) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}", "bits"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ [].pop() }}", ""),
        ("{{ messages[9].content.x.y }}", "has no element 9"),
        ("{{ range(10 ** 9) }}", "range"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_that_does_not_end_or_fails_is_an_error_that_names_it(
    template: str, says: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(limits, "SECONDS", 0.3)
    monkeypatch.setattr(limits, "BYTES", 400 << 20)
    began = time.monotonic()
    error = said_of(template)
    assert "rows.jsonl, row 1: the model's chat template" in error and says in error
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("template", "says"),
    [("\n{% if %}", "line 2: Expected an expression"), ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "")],
)
def test_what_is_not_a_template_is_told_once_and_before_any_row(template: str, says: str):
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template, tokenizer.name_or_path = template, "some/model"
    with pytest.raises(InputError, match=f"^training_base_model=some/model: its chat template cannot be read: {says}"):
        ChatTokenizer(tokenizer)


def test_the_limit_of_time_ends_the_work_where_each_row_alone_would_be_gathered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = ENDLESS + "{% endfor %}" + CHAT_TEMPLATE
    with pytest.raises(InputError, match="takes longer"):
        list(ChatTokenizer(tokenizer).samples([CONVERSATION] * 1000, Problems()))


def test_nothing_of_the_limits_is_left_behind():
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGVTALRM)
    with limits.limited():
        assert resource.getrlimit(resource.RLIMIT_DATA) != before[0]
        assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0
    assert (resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGVTALRM)) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
