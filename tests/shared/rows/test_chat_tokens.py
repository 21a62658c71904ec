from typing import Any

import pytest

from helpers.chat_rows import ANSWER, QUESTION, REASONING_ROWS, ROWS, call, said
from helpers.tiny_model import CHAT_TEMPLATE
from helpers.tokenizer_families import CHATML_WITH_REASONING, CHATML_WITH_TOOLS, FAMILIES, MISTRAL, make_tokenizer
from kfp_osft.shared.model.torchvision import hide_broken_torchvision
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows import chat_tokens
from kfp_osft.shared.rows.chat_tokens import NO_LOSS, ChatTokenizer, Sample
from kfp_osft.shared.rows.messages import Conversation, Problems, Warnings

ASSISTANT = frozenset({"assistant"})


@pytest.fixture(scope="module", autouse=True)
def imports_work() -> None:
    hide_broken_torchvision()


def samples_of(tokenizer: Any, *conversations: Conversation, warnings: Warnings | None = None) -> list[Sample]:
    return [sample for _, sample in ChatTokenizer(tokenizer, warnings).samples(conversations)]


def learnt_text(tokenizer: Any, labels: list[int]) -> list[str]:
    """The texts of the runs of tokens with loss."""
    runs: list[list[int]] = [[]]
    for label in labels:
        if label != NO_LOSS:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize(
    ("name", "kind", "roles", "learnt"),
    [
        ("chatml", "system", "assistant", [f"{ANSWER}<|im_end|>"]),
        ("chatml", "many turns", "assistant", [f"{ANSWER}<|im_end|>"] * 3),
        ("chatml", "system", "user assistant", [f"{QUESTION}<|im_end|>", f"{ANSWER}<|im_end|>"]),
        (
            "chatml",
            "ends with a question",
            "user assistant",
            [f"{QUESTION}<|im_end|>", f"{ANSWER}<|im_end|>", f"{QUESTION}<|im_end|>"],
        ),
        ("chatml", "empty answer", "assistant", ["<|im_end|>", f"{ANSWER}<|im_end|>"]),
        ("llama3", "system", "assistant", [f"{ANSWER}<|eot_id|>"]),
        ("llama3-other-eos", "system", "assistant", [f"{ANSWER}<|eot_id|>"]),
        ("mistral", "many turns", "assistant", [f" {ANSWER}</s>"] * 3),
        ("chatml-reasoning", "reasoning", "assistant", [f"<think>\nHm.\nAustria...\n</think>\n\n{ANSWER}<|im_end|>"]),
    ],
)
def test_the_answer_and_its_end_of_turn_are_learnt(name: str, kind: str, roles: str, learnt: list[str]):
    tokenizer = make_tokenizer(FAMILIES[name])
    messages = (ROWS | REASONING_ROWS)[kind]

    (sample,) = samples_of(tokenizer, Conversation("row 1", messages, frozenset(roles.split())))

    assert learnt_text(tokenizer, sample.labels) == learnt
    assert [label for label in sample.labels if label != NO_LOSS] == [
        token for token, label in zip(sample.input_ids, sample.labels, strict=True) if label != NO_LOSS
    ]
    assert sample.num_loss_counted_tokens == sum(label != NO_LOSS for label in sample.labels)


def test_a_prompt_that_is_given_is_not_learnt():
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    messages = [said("user", QUESTION), said("assistant", "Vienna."), said("user", QUESTION), said("assistant", ANSWER)]

    (sample,) = samples_of(tokenizer, Conversation("row 1", messages, ASSISTANT, given=3))

    assert learnt_text(tokenizer, sample.labels) == [f"{ANSWER}<|im_end|>"]


def test_the_first_token_counts_for_no_loss():
    sample = Sample([5, 6, 7], [(0, 1), (2, 3)])

    assert sample.labels == [5, NO_LOSS, 7]
    assert sample.num_loss_counted_tokens == 1


@pytest.mark.parametrize("at_once", [1, 3, 512])
def test_many_conversations_at_once_become_what_each_becomes_alone(monkeypatch: pytest.MonkeyPatch, at_once: int):
    tokenizer = make_tokenizer(FAMILIES["sentencepiece"])
    conversations = [Conversation(kind, messages, ASSISTANT) for kind, messages in ROWS.items()]
    alone = [sample for conversation in conversations for sample in samples_of(tokenizer, conversation)]
    monkeypatch.setattr(chat_tokens, "_ROWS_AT_ONCE", at_once)

    assert list(ChatTokenizer(tokenizer).samples(conversations)) == list(zip(ROWS, alone, strict=True))


def test_long_rows_are_encoded_few_at_once():
    long = Conversation("row", [said("user", "x" * 400_000), said("assistant", ANSWER)], ASSISTANT)

    assert [len(batch) for batch in chat_tokens._batches([long] * 7)] == [2, 2, 2, 1]


def test_a_tokenizer_that_does_more_than_its_native_one_is_asked_itself(monkeypatch: pytest.MonkeyPatch):
    class Renaming(type(make_tokenizer(FAMILIES["chatml"]))):
        def __call__(self, text: Any, *arguments: Any, **more: Any) -> Any:
            return super().__call__([one.replace("Vienna", "Lima") for one in text], *arguments, **more)

    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.__class__ = Renaming
    monkeypatch.setattr(chat_tokens, "_ROWS_AT_ONCE", 1)

    samples = samples_of(tokenizer, *[Conversation("row", ROWS["one turn"], ASSISTANT)] * 3)

    assert [learnt_text(tokenizer, sample.labels) for sample in samples] == [
        [ANSWER.replace("Vienna", "Lima") + "<|im_end|>"]
    ] * 3


def test_no_mark_is_left_in_a_sample():
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    vocabulary = len(tokenizer)
    (sample,) = samples_of(tokenizer, Conversation("row 1", ROWS["system"], ASSISTANT))

    assert max(sample.input_ids) < vocabulary == len(tokenizer)
    assert tokenizer.decode(sample.input_ids) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>\n"
    )


# Templates and rows that do not go together

CONTENT_ONLY = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (
            MISTRAL,
            [said("user", "a"), said("user", "b"), said("assistant", "c")],
            "the model's chat template rejects this conversation: roles must alternate",
        ),
        (
            CONTENT_ONLY.replace("message.content", "message.content + message.name"),
            ROWS["one turn"],
            "the model's chat template rejects this conversation: ",
        ),
        (
            CONTENT_ONLY.replace("message.content", "'<' + message.content"),
            [said("assistant", None, tool_calls=[call("")])],
            "the model's chat template rejects this conversation: ",
        ),
        (
            CONTENT_ONLY.replace("message.content", "message.content[:20]"),
            ROWS["one turn"],
            "the model's chat template drops or changes messages[0] (role 'user')",
        ),
        (
            CONTENT_ONLY.replace("message.content", "message.content[30:]"),
            ROWS["one turn"],
            "the model's chat template drops or changes messages[0] (role 'user')",
        ),
        (
            CONTENT_ONLY.replace("message.content", "message.content if loop.last else message.content[:20]"),
            ROWS["many turns"],
            "the model's chat template drops or changes messages[0] (role 'user')",
        ),
        (CHAT_TEMPLATE, [said("user", "\ud83d"), said("assistant", ANSWER)], "is not text: "),
        (CHATML_WITH_TOOLS, [said("assistant", ANSWER, tool_calls=[call("\udc00")])], "is not text: "),
        (
            CHATML_WITH_TOOLS,
            [said("assistant", ANSWER, tool_calls=5)],
            "the model's chat template rejects this conversation: ",
        ),
        (
            CHAT_TEMPLATE.replace("in messages", "in messages[1:]"),
            ROWS["system"],
            "the model's chat template drops or changes messages[0] (role 'system')",
        ),
        (
            CHAT_TEMPLATE.replace("in messages", "in messages if message.role != 'tool'"),
            [*ROWS["one turn"], said("tool", "42 degrees"), said("assistant", ANSWER)],
            "the model's chat template drops or changes messages[2] (role 'tool')",
        ),
        (
            CHAT_TEMPLATE.replace("in messages", "in messages[:2]"),
            ROWS["one turn"] + ROWS["system"],
            "the model's chat template drops or changes messages[2] (role 'system')",
        ),
        # The same words stand in another turn, which hides nothing.
        (
            CHAT_TEMPLATE.replace("in messages", "in messages[2:]"),
            ROWS["many turns"],
            "the model's chat template drops or changes messages[0] (role 'user')",
        ),
        (
            CHAT_TEMPLATE,
            [said("user", QUESTION), said("assistant", ANSWER, tool_calls=[call("{}")])],
            "the model's chat template drops the call of the tool 'capital_of' in messages[1]",
        ),
    ],
    ids=[
        "refused",
        "field",
        "null",
        "cut",
        "beheaded",
        "nested",
        "surrogate",
        "surrogate in a call",
        "calls",
        "first turn",
        "tool turns",
        "later turns",
        "the same turns",
        "tool call",
    ],
)
def test_a_conversation_that_the_template_does_not_render_whole_is_told(template: str, messages: list, message: str):
    tokenizer = make_tokenizer(FAMILIES["chatml"], template)

    with pytest.raises(InputError) as error:
        samples_of(tokenizer, Conversation("rows.jsonl, row 2", messages, ASSISTANT))

    assert str(error.value).startswith(f"rows.jsonl, row 2: {message}")


def test_good_rows_beside_those_that_the_template_refuses_are_tokenized():
    tokenizer = make_tokenizer(FAMILIES["chatml"], MISTRAL)
    good = Conversation("row 1", ROWS["one turn"], ASSISTANT)
    bad = [
        Conversation("row 2", [said("user", "a"), *ROWS["one turn"]], ASSISTANT),
        Conversation("row 3", [said("user", "\ud83d"), said("assistant", ANSWER)], ASSISTANT),
    ]
    problems = Problems()

    tokenized = list(ChatTokenizer(tokenizer).samples([good, *bad, good], problems))

    assert tokenized == [("row 1", samples_of(tokenizer, good)[0])] * 2
    with pytest.raises(InputError, match="(?s)^row 2: .* roles must alternate\nrow 3: is not text: "):
        problems.raise_if_any()


STRIPS = "{% for message in messages %}{{ message.role + ': ' + message.content | trim + eos_token }}{% endfor %}"
AS_JSON = "{% for message in messages %}{{ message.content | tojson + eos_token }}{% endfor %}"
NO_END = "{% for message in messages %}{{ message.role + ': ' + message.content + '<|endoftext|>' }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "messages", "warnings"),
    [
        (CHATML_WITH_TOOLS, ROWS["system"], []),
        (
            STRIPS,
            [said("user", f" {QUESTION}\n"), said("assistant", ANSWER)],
            ["1 row: the chat template strips blanks around a message (row 4)"],
        ),
        (
            STRIPS,
            [said("user", QUESTION), said("assistant", f" {ANSWER}\n")],
            ["1 row: the chat template strips blanks around a message (row 4)"],
        ),
        (AS_JSON, [said("user", 'He says: "Größe"'), said("assistant", 'I say: "x"\n')], []),
        (
            CHAT_TEMPLATE,
            REASONING_ROWS["reasoning"],
            ["1 row: the chat template leaves out a turn's reasoning, so it is not learnt (row 4)"],
        ),
        (CHATML_WITH_REASONING, REASONING_ROWS["reasoning"], []),
        (
            CHATML_WITH_REASONING,
            REASONING_ROWS["reasoning in all turns"],
            ["1 row: the chat template leaves out a turn's reasoning, so it is not learnt (row 4)"],
        ),
        (
            NO_END,
            ROWS["one turn"],
            [
                "1 row: the chat template ends an answer with '<|endoftext|>', and the tokenizer's eos_token is "
                "'<|im_end|>', so that "
                "generation may not stop there; set eos_token in the model's tokenizer_config.json to the end of a "
                "turn (row 4)"
            ],
        ),
        (
            NO_END.replace(" + '<|endoftext|>'", ""),
            ROWS["one turn"],
            [
                "1 row: the chat template ends an answer with nothing of its own, and the tokenizer's eos_token is "
                "'<|im_end|>', so that "
                "generation may not stop there; set eos_token in the model's tokenizer_config.json to the end of a "
                "turn (row 4)"
            ],
        ),
    ],
)
def test_what_is_odd_about_a_template_is_told_with_its_rows(template: str, messages: list, warnings: list[str]):
    told = Warnings()

    samples_of(make_tokenizer(FAMILIES["chatml"], template), Conversation("row 4", messages, ASSISTANT), warnings=told)

    assert told.lines() == warnings


def test_a_tokenizer_without_a_chat_template_is_told():
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = None
    tokenizer.name_or_path = "some/model"

    with pytest.raises(InputError) as error:
        ChatTokenizer(tokenizer)

    assert str(error.value) == (
        "training_base_model=some/model: its tokenizer has no chat template; give an instruction-tuned "
        "model, or add chat_template.jinja to the model folder"
    )
