import json

import pytest

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.files import Row
from kfp_osft.shared.rows.messages import MARKERS, Conversation, Problems, Warnings
from kfp_osft.shared.rows.row_formats import FORMATS, conversations

USER = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "I"}
SYSTEM = {"role": "system", "content": "Be kind."}
CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}


def conversation_of(values: dict, unmask_messages: bool = False, warnings: Warnings | None = None) -> Conversation:
    problems = Problems()
    found = list(conversations([Row("rows.jsonl, row 1", values)], unmask_messages, problems, warnings or Warnings()))
    problems.raise_if_any()
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    "messages",
    [
        [USER, {"role": "assistant", "content": "I"}],
        [USER, {"role": "assistant", "content": ""}],
        [USER, {"role": "assistant", "content": "I", "reasoning_content": "Hm", "thinking": "Hm"}],
        [USER | {"name": "me"}, {"role": "assistant", "content": "I", "weight": 1}],
        [USER, {"role": "assistant", "content": "I", "reasoning_content": None, "tool_calls": None}],
        [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "1"}],
        [USER, {"role": "assistant", "tool_calls": [CALL]}],
    ],
)
@pytest.mark.parametrize("form", [lambda messages: messages, json.dumps], ids=["list", "string"])
def test_a_conversation_is_taken_as_a_list_or_as_its_json(messages: list, form):
    assert conversation_of({"messages": form(messages)}).messages == messages


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I"}]}, [USER, ANSWER]),
        (
            {
                "conversations": [{"from": "Human", "value": "Who?"}, {"from": "GPT", "value": "I"}],
                "system": "Be kind.",
            },
            [SYSTEM, USER, ANSWER],
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be kind."},
                    {"from": "user", "value": "Who?"},
                    {"from": "assistant", "value": "I"},
                ],
                "system": None,
            },
            [SYSTEM, USER, ANSWER],
        ),
        (
            {"conversations": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I"}]},
            [USER, ANSWER],
        ),
        (
            {"conversations": json.dumps([{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I"}])},
            [USER, ANSWER],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Who?"},
                    {"from": "gpt", "value": "", "tool_calls": [CALL], "weight": 1},
                    {"from": "observation", "value": "me"},
                    {"from": "tool", "value": "you"},
                    {"from": "function_response", "value": "us"},
                    {"from": "model", "value": "I"},
                ]
            },
            [
                USER,
                {"role": "assistant", "content": "", "tool_calls": [CALL], "weight": 1},
                *[{"role": "tool", "content": text} for text in ("me", "you", "us")],
                ANSWER,
            ],
        ),
        ({"prompt": "Who?", "completion": "I"}, [USER, ANSWER]),
        ({"prompt": "Who?", "completion": "I", "system": "Be kind."}, [SYSTEM, USER, ANSWER]),
        ({"prompt": [SYSTEM, USER], "completion": [ANSWER]}, [SYSTEM, USER, ANSWER]),
        ({"prompt": [USER], "completion": [ANSWER], "system": "Be kind."}, [SYSTEM, USER, ANSWER]),
        ({"instruction": "Who?", "output": "I"}, [USER, ANSWER]),
        ({"instruction": "Who?", "input": "", "output": "I", "text": "Below is an instruction"}, [USER, ANSWER]),
        ({"instruction": "Who?", "input": None, "output": "I", "history": [], "system": ""}, [USER, ANSWER]),
        (
            {"instruction": "Who?", "input": "Tell me.", "output": "I"},
            [{"role": "user", "content": "Who?\nTell me."}, ANSWER],
        ),
        ({"instruction": "", "input": "Who?", "output": "I"}, [USER, ANSWER]),
        (
            {"instruction": "Who?", "output": "I", "system": "Be kind.", "history": [["Who?", "I"]]},
            [SYSTEM, USER, ANSWER, USER, ANSWER],
        ),
        # Tables have all columns in all rows.
        ({"messages": None, "prompt": "Who?", "completion": "I", "conversations": None}, [USER, ANSWER]),
        # ultrachat_200k has its first question again as `prompt`.
        ({"messages": [USER, ANSWER], "prompt": "Who?"}, [USER, ANSWER]),
    ],
)
def test_each_format_becomes_messages(values: dict, messages: list):
    conversation = conversation_of(values)

    assert conversation.messages == messages
    assert conversation.learnt_roles == {"assistant"}


def test_the_answers_in_a_prompt_are_learnt_only_when_all_turns_are():
    values = {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]}

    assert [conversation_of(values).is_learnt(index) for index in range(4)] == [False, False, False, True]
    for opened in (conversation_of(values | {"unmask": True}), conversation_of(values, True)):
        assert [opened.is_learnt(index) for index in range(4)] == [True] * 4


@pytest.mark.parametrize(
    ("values", "parameter", "learnt"),
    [
        ({}, False, {"assistant"}),
        ({}, True, {"user", "assistant", "tool"}),
        ({"unmask": True}, False, {"user", "assistant", "tool"}),
        ({"unmask": False}, True, {"user", "assistant", "tool"}),
        ({"unmask": None}, False, {"assistant"}),
        ({"unmask": 0}, False, {"assistant"}),
    ],
)
def test_a_row_or_the_parameter_opens_all_turns_but_the_systems(values: dict, parameter: bool, learnt: set):
    messages = [SYSTEM, USER, ANSWER, {"role": "tool", "content": "1"}, ANSWER]

    assert conversation_of({"messages": messages} | values, parameter).learnt_roles == learnt


def test_the_pretraining_role_opens_all_turns():
    values = {"messages": [SYSTEM, {"role": "pretraining", "content": "<|user|>\nWho?\n<|assistant|>\nI"}]}

    conversation = conversation_of(values)

    assert conversation.messages == [SYSTEM, {"role": "user", "content": "Who?\n"}, ANSWER]
    assert conversation.learnt_roles == {"user", "assistant"}


def test_the_format_is_told_once_and_a_row_of_another_is_a_problem(capsys: pytest.CaptureFixture[str]):
    rows = [
        {"conversations": [{"from": "gpt", "value": "I"}]},
        {"messages": [USER, ANSWER]},
        {"conversations": [{"from": "gpt", "value": "I"}]},
        {"prompt": "Who?", "completion": "I"},
    ]
    problems = Problems()

    found = list(
        conversations(
            [Row(f"row {number}", row) for number, row in enumerate(rows, start=1)], False, problems, Warnings()
        )
    )

    assert [conversation.place for conversation in found] == ["row 1", "row 3"]
    assert capsys.readouterr().out == "Format of the rows: conversations (ShareGPT)\n"
    with pytest.raises(InputError) as error:
        problems.raise_if_any()
    assert str(error.value).splitlines() == [
        f"row {number}: is of the format {other}, the rows before it are conversations (ShareGPT); a dataset holds one "
        "format"
        for number, other in ((2, "messages (chat)"), (4, "prompt and completion"))
    ]


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        (
            {"tools": [{"name": "f"}]},
            ["1 row: 'tools' is not put into the text, training_hub gives it to no template (rows.jsonl, row 1)"],
        ),
        ({"tools": []}, []),
        (
            {"messages": [USER, ANSWER | {"weight": 0}]},
            ["1 row: a message's 'weight' of 0 is not heeded, its text is learnt as any other (rows.jsonl, row 1)"],
        ),
        ({"messages": [USER, ANSWER | {"weight": 1}]}, []),
    ],
)
def test_what_a_row_asks_for_and_the_training_does_not_heed_is_a_warning(more: dict, lines: list[str]):
    warnings = Warnings()

    conversation_of({"messages": [USER, ANSWER]} | more, warnings=warnings)

    assert warnings.lines() == lines


def bad_message(message: object) -> dict:
    return {"messages": [USER, message]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {},
            "is of no known format; it has no field; known are messages (chat); conversations (ShareGPT); prompt "
            "and completion; instruction and output (Alpaca)",
        ),
        ({"prompt": "a", "text": "b"}, "is of no known format; it has 'prompt', 'text'; known are "),
        (
            {"input_ids": [1], "labels": [1], "text": "b"},
            "holds tokens already (input_ids, labels): set training_use_processed_dataset to train on them",
        ),
        (
            {"messages": [USER], "conversations": [USER]},
            "has the fields of more than one format (messages (chat); conversations (ShareGPT)); keep those of one",
        ),
        ({"messages": None, "conversations": None}, "has the fields of more than one format"),
        ({"messages": None}, "messages is null, expected a list of at least one message"),
        ({"messages": []}, "messages is an empty list, expected a list of at least one message"),
        ({"messages": "[]"}, "messages is an empty list, expected a list of at least one message"),
        ({"messages": {"role": "user"}}, "messages is an object, expected a list of at least one message"),
        ({"messages": 3}, "messages is a number, expected a list of at least one message"),
        ({"messages": "hello"}, "'messages' is a string that is not JSON"),
        ({"messages": ""}, "'messages' is a string that is not JSON"),
        (bad_message("hello"), "messages[1] is a string, expected an object with 'role' and 'content'"),
        (bad_message(None), "messages[1] is null, expected an object with 'role' and 'content'"),
        (bad_message({"content": "x"}), "messages[1]: 'role' is null, expected a string as 'user' or 'assistant'"),
        (bad_message({"role": "", "content": "x"}), "messages[1]: 'role' is an empty string, expected a string"),
        (bad_message({"role": 1, "content": "x"}), "messages[1]: 'role' is a number, expected a string"),
        (bad_message({"role": "assistant"}), "messages[1]: 'content' is null, expected a string"),
        (bad_message({"role": "assistant", "content": None}), "messages[1]: 'content' is null, expected a string"),
        (
            bad_message({"role": "assistant", "content": None, "tool_calls": []}),
            "messages[1]: 'content' is null, expected a string",
        ),
        (
            bad_message({"role": "tool", "content": None, "tool_calls": [CALL]}),
            "messages[1]: 'content' is null, expected a string",
        ),
        (bad_message({"role": "assistant", "content": 5}), "messages[1]: 'content' is a number, expected a string"),
        (bad_message({"role": "assistant", "content": True}), "messages[1]: 'content' is a boolean, expected a string"),
        (
            bad_message({"role": "assistant", "content": [{"type": "text", "text": "x"}]}),
            "messages[1]: 'content' is a list, expected a string",
        ),
        (
            bad_message({"role": "assistant", "content": {"text": "x"}}),
            "messages[1]: 'content' is an object, expected a string",
        ),
        (
            bad_message({"role": "assistant", "content": "x", "reasoning_content": 5}),
            "messages[1]: 'reasoning_content' is a number, expected a string",
        ),
        (
            bad_message({"role": "assistant", "content": None, "tool_calls": [CALL], "thinking": ["x"]}),
            "messages[1]: 'thinking' is a list, expected a string",
        ),
        (
            bad_message({"role": "assistant", "content": None, "tool_calls": [{"name": "f <|MASK|>"}]}),
            "messages[1]: 'tool_calls' holds <|MASK|>, which the trainer uses as a mark of its own",
        ),
        ({"messages": [USER, ANSWER], "unmask": "false"}, "'unmask' is a string, expected true or false"),
        ({"messages": [USER]}, "has no assistant turn to learn from; its roles are user"),
        *[
            (
                bad_message({"role": role, "content": "x"} | {field: f"a {marker} b"}),
                f"messages[1]: '{field}' holds {marker}, which the trainer uses as a mark of its own",
            )
            for marker in MARKERS
            for role, field in [("user", "content"), ("assistant", "reasoning_content")]
        ],
        ({"conversations": []}, "conversations is an empty list, expected a list of at least one message"),
        ({"conversations": {"from": "human"}}, "conversations is an object, expected a list of at least one message"),
        ({"conversations": "hello"}, "'conversations' is a string that is not JSON"),
        ({"conversations": ["hello"]}, "conversations[0] is a string, expected an object with 'from' and 'value'"),
        (
            {"conversations": [{"value": "x"}]},
            "conversations[0]: 'role' is None, expected one of system, human, user, ",
        ),
        (
            {"conversations": [{"from": "narrator", "value": "x"}]},
            "conversations[0]: 'from' is 'narrator', expected one of system, human, user, ",
        ),
        (
            {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": 3}]},
            "conversations[1]: 'content' is a number, expected a string",
        ),
        (
            {"conversations": [{"from": "human", "value": "x"}]},
            "has no assistant turn to learn from; its roles are user",
        ),
        (
            {"conversations": [{"from": "system", "value": "x"}, {"from": "gpt", "value": "y"}], "system": "z"},
            "has a 'system' and a first turn of that role; keep one",
        ),
        (
            {"prompt": "x", "completion": None},
            "'prompt' is a string and 'completion' null, expected two strings, or two lists of messages",
        ),
        ({"prompt": [USER], "completion": "y"}, "'prompt' is a list and 'completion' a string, expected two strings"),
        ({"prompt": [USER], "completion": [USER]}, "has no assistant turn to learn from; its roles are user"),
        (
            {"prompt": [USER, ANSWER], "completion": [USER]},
            "has no assistant turn to learn from; its roles are assistant, user",
        ),
        ({"prompt": [], "completion": [ANSWER]}, "prompt is an empty list, expected a list of at least one message"),
        (
            {"prompt": [USER], "completion": [{"role": "assistant"}]},
            "completion[0]: 'content' is null, expected a string",
        ),
        ({"instruction": "x", "output": None}, "'output' is null, expected a string"),
        ({"instruction": 3, "output": "y"}, "'instruction' is a number, expected a string"),
        ({"instruction": "x", "input": ["z"], "output": "y"}, "'input' is a list, expected a string"),
        ({"instruction": "x", "output": "y", "history": [["q"]]}, "history[0] is no pair of question and answer"),
        (
            {"instruction": "x", "output": "y", "history": [["q", 3]]},
            "instruction, output[1]: 'content' is a number, expected a string",
        ),
        (
            {"instruction": "x", "output": "y", "system": 3},
            "instruction, output[0]: 'content' is a number, expected a string",
        ),
    ],
)
def test_a_bad_row_is_told_with_its_file_and_row(values: dict, message: str):
    problems = Problems()

    assert list(conversations([Row("rows.jsonl, row 7", values)], False, problems, Warnings())) == []
    with pytest.raises(InputError) as error:
        problems.raise_if_any()
    assert str(error.value).startswith(f"rows.jsonl, row 7: {message}")


def test_formats_are_named_by_their_fields():
    assert all(field in name for name, (fields, _) in FORMATS.items() for field in fields)
