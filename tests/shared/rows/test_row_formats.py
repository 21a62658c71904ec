import datetime
import decimal
import json

import pytest

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.columnar import Unreadable
from kfp_osft.shared.rows.files import Row
from kfp_osft.shared.rows.messages import MARKERS, Conversation, Problems, Warnings
from kfp_osft.shared.rows.row_formats import FORMATS, conversations

USER = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "I"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SYSTEM = {"role": "system", "content": "Be kind."}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"city": "Vienna"}}}

#: Texts as chat templates make them: ChatML, Llama 2 and 3, Gemma, Phi, Granite, DeepSeek, gpt-oss, Alpaca, Vicuna.
RENDERED = (
    "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n",
    "<s>[INST] Who? [/INST]",
    " <|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>",
    "<bos><start_of_turn>user\nWho?<end_of_turn>\n",
    "<|user|>\nWho?<|end|>\n<|assistant|>\n",
    "<|start_of_role|>user<|end_of_role|>Who?",
    "<｜begin▁of▁sentence｜><｜User｜>Who?<｜Assistant｜>",
    "<|start|>user<|message|>Who?<|end|>",
    "Below is an instruction.\n\n### Instruction:\nWho?\n\n### Response:\n",
    "USER: Who? ASSISTANT:",
    "\n\nHuman: Who?\n\nAssistant:",
)


def deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


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
        [USER, {"role": "assistant", "content": "I", "reasoning_content": "Hm", "thinking": "Hm"}],
        [USER | {"name": "me"}, {"role": "assistant", "content": "I", "reasoning": "Hm"}],
        [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "1"}],
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
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                *[{"role": "tool", "content": text} for text in ("me", "you", "us")],
                ANSWER,
            ],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Who?"},
                    {"from": "function_call", "value": json.dumps(CALL["function"])},
                    {"from": "observation", "value": "me"},
                    {"from": "gpt", "value": "I"},
                ]
            },
            [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "me"},
                ANSWER,
            ],
        ),
        ({"prompt": "Who?", "completion": "I"}, [USER, ANSWER]),
        ({"prompt": json.dumps([USER]), "completion": json.dumps([ANSWER])}, [USER, ANSWER]),
        ({"prompt": "[1] Who?", "completion": "[]"}, [USER | {"content": "[1] Who?"}, ANSWER | {"content": "[]"}]),
        ({"user": "Who?", "assistant": "I", "system": "Be kind."}, [SYSTEM, USER, ANSWER]),
        ({"user": "Who?", "assistant": "I", "reasoning": "Hm"}, [USER, ANSWER | {"reasoning_content": "Hm"}]),
        ({"messages": [json.dumps(USER), json.dumps(ANSWER)]}, [USER, ANSWER]),
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
        f"row {number}: has the format {other}, the rows before it are conversations (ShareGPT); a dataset holds one "
        "format"
        for number, other in ((2, "messages (chat)"), (4, "prompt and completion"))
    ]


@pytest.mark.parametrize(
    ("row", "learnt"),
    [
        ({"messages": [USER, ANSWER | {"weight": 0}, USER, ANSWER]}, [3]),
        ({"messages": [USER, ANSWER | {"train": False}, USER, ANSWER | {"train": True}]}, [3]),
        ({"messages": [USER | {"training": True}, ANSWER]}, [0, 1]),
        # OpenAI's 1 is the default of an assistant's message, and no other may have it.
        ({"messages": [USER | {"weight": 1}, ANSWER | {"weight": 1.0}]}, [1]),
        ({"messages": [USER, ANSWER | {"loss": "False"}, USER, ANSWER | {"masked": False}]}, [3]),
        ({"messages": [USER, ANSWER | {"masked": True}, USER, ANSWER]}, [3]),
        ({"messages": [USER, ANSWER | {"train": False}, USER, ANSWER], "unmask": True}, [0, 2, 3]),
        ({"conversations": [{"from": "gpt", "value": "I", "weight": 0}, {"from": "gpt", "value": "I"}]}, [1]),
        ({"prompt": [USER, ANSWER | {"train": True}, USER], "completion": [ANSWER]}, [1, 3]),
        ({"messages": [USER, ANSWER | {"content": " \n"}, USER, ANSWER]}, [3]),
        ({"messages": [USER, ANSWER | {"content": "", "reasoning_content": "Hm"}, USER, ANSWER]}, [3]),
        ({"messages": [USER, ANSWER | {"content": "", "tool_calls": [CALL]}, USER, ANSWER]}, [1, 3]),
    ],
)
def test_what_a_message_says_about_itself_decides_whether_it_is_learnt(row: dict, learnt: list[int]):
    conversation = conversation_of(row)

    assert [index for index in range(len(conversation.messages)) if conversation.is_learnt(index)] == learnt
    names = {name for message in conversation.messages for name in message}
    assert not names & {"weight", "loss", "masked", "training"}


KTO = {"prompt": "Who?", "completion": "I"}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (KTO | {"label": False}, "'label' is false, so its answer is one that is not to be learnt"),
        (KTO | {"label": "False"}, "'label' is false"),
        (KTO | {"label": 0}, "'label' is false"),
        ({"prompt": [USER], "completion": [ANSWER], "label": False}, "'label' is false"),
        ({"messages": [USER, ANSWER], "label": False}, "'label' is false"),
        ({"messages": [USER, ANSWER], "kto_tag": False}, "'kto_tag' is false"),
        ({"messages": [USER, ANSWER | {"weight": 0}]}, "none of its turns is to be learnt"),
        ({"messages": [USER, ANSWER | {"content": ""}]}, "none of its turns is to be learnt"),
        ({"prompt": "Who?", "completion": "<|im_end|>"}, "none of its turns is to be learnt"),
    ],
)
def test_a_row_of_which_nothing_is_to_be_learnt_is_left_out_and_counted(row: dict, sentence: str):
    problems, left_out = Problems(), Warnings()

    assert list(conversations([Row("rows.jsonl, row 1", row)], False, problems, Warnings(), left_out)) == []
    problems.raise_if_any()
    (line,) = left_out.lines()
    assert line.startswith(f"1 row: {sentence}") and line.endswith("(rows.jsonl, row 1)")


@pytest.mark.parametrize("label", [True, "true", 1, None, 0.0])
def test_a_label_that_is_not_false_changes_nothing(label: object):
    assert conversation_of(KTO | {"label": label}).messages == [USER, ANSWER]


def test_a_class_beside_a_conversation_is_not_taken_for_a_verdict():
    assert conversation_of({"messages": [USER, ANSWER], "label": 0}).messages == [USER, ANSWER]


@pytest.mark.parametrize(
    ("more", "tools"),
    [
        ({}, None),
        ({"tools": None}, None),
        ({"tools": []}, None),
        ({"tools": ""}, None),
        ({"tools": [TOOL]}, [TOOL]),
        ({"tools": json.dumps([TOOL])}, [TOOL]),
        ({"tools": [json.dumps(TOOL)]}, [TOOL]),
        ({"tools": [TOOL["function"]]}, [TOOL]),
        ({"functions": [TOOL["function"]]}, [TOOL]),
        ({"tools": None, "functions": [TOOL["function"]]}, [TOOL]),
    ],
)
def test_the_tools_of_a_row_come_with_its_conversation(more: dict, tools: list | None):
    assert conversation_of({"messages": [USER, ANSWER]} | more).tools == tools


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ("I.<|im_end|>", "I."),
        ("I.</s>", "I."),
        ("I. <|eot_id|>\n", "I. "),
        ("I.<|end|><|endoftext|>", "I."),
        ("I.<eom>", "I."),
        ("Write <s>not</s>", "Write <s>not</s>"),
        ("The token <|im_end|> ends a turn.", "The token <|im_end|> ends a turn."),
    ],
)
def test_an_answers_own_end_token_is_taken_off_with_a_warning(content: str, kept: str):
    warnings, problems = Warnings(), Problems()
    row = Row("rows.jsonl, row 1", {"messages": [USER, ANSWER | {"content": content}]})

    (conversation,) = conversations([row], False, problems, warnings, eos_token="<eom>")

    assert conversation.messages[1]["content"] == kept
    assert bool(warnings.lines()) == (kept != content)


def test_a_repeated_problem_is_one_line_with_its_count_and_first_rows():
    problems = Problems()
    rows = [Row(f"rows.csv, row {number}", {"question": "Who?", "answer": "I"}) for number in range(1, 31)]

    list(conversations(rows, False, problems, Warnings()))

    with pytest.raises(InputError) as error:
        problems.raise_if_any()
    assert str(error.value) == (
        "rows.csv, row 1: has no known format; it has 'question', 'answer'; set "
        'dataset_columns="user=question,assistant=answer" if that is what they mean (30 such rows: '
        + "; ".join(f"rows.csv, row {number}" for number in range(1, 11))
        + "; and 20 more)"
    )


def bad_message(message: object) -> dict:
    return {"messages": [USER, message]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {},
            "has no known format; it has no field; known are messages (chat); conversations (ShareGPT); prompt "
            "and completion; instruction and output (Alpaca); user and assistant; dataset_columns maps other columns "
            "to one of them",
        ),
        ({"prompt": "a", "text": "b"}, "has no known format; it has 'prompt', 'text'; known are "),
        (
            {"input_ids": [1], "labels": [1], "text": "b"},
            "holds tokens already (input_ids, labels): set training_use_processed_dataset to train on them",
        ),
        (
            {"messages": [USER], "conversations": [USER]},
            "has the fields of more than one format (messages (chat); conversations (ShareGPT)); keep those of one, or "
            'choose with dataset_columns, as "messages=messages"',
        ),
        (
            {"prompt": "Who?", "chosen": "I", "rejected": "You"},
            "is a comparison of answers ('chosen' and 'rejected'), of which nothing can be learnt here; to train on "
            'one side of it set dataset_columns, as "user=prompt,assistant=chosen"',
        ),
        (
            {"messages": [USER, ANSWER], "chosen": [USER, ANSWER], "rejected": [USER, ANSWER]},
            "is a comparison of answers ('chosen' and 'rejected'), of which nothing can be learnt here; to train on "
            'one side of it set dataset_columns, as "messages=messages"',
        ),
        (
            {"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]},
            "is a comparison of answers ('chosen' and 'rejected'), of which nothing can be learnt here; to train on "
            'one side of it set dataset_columns, as "messages=chosen"',
        ),
        (
            {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]},
            "is a comparison of answers ('preferred_output' and 'non_preferred_output'), of which nothing can be",
        ),
        (
            {"What is the capital of Austria?": "a", "Vienna": "b"},
            "has no known format; it has columns whose names read like content; if it is a CSV file, its first line "
            "must name the columns; known are ",
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
            bad_message({"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            "messages[1]: 'content'[0] is a part of type 'image_url'; only text is trained on",
        ),
        *[
            (
                bad_message({"role": "assistant", "content": value}),
                f"messages[1]: 'content' is {words}, expected a string",
            )
            for value, words in [
                (datetime.datetime(2026, 1, 1), "a timestamp"),
                (decimal.Decimal("1.5"), "a decimal number"),
                (b"x", "bytes"),
            ]
        ],
        *[
            (
                {"messages": [USER, {"role": "assistant", "content": "x", "extra": {"at": [value]}}]},
                f"messages[1]: 'extra' holds {words}, which JSON has no form for; write it as a string",
            )
            for value, words in [
                (datetime.datetime(2026, 1, 1), "a timestamp"),
                (decimal.Decimal("1.5"), "a decimal number"),
                (b"x", "bytes"),
                (Unreadable("timestamp[ns]"), "a value of type timestamp[ns]"),
            ]
        ],
        (
            bad_message({"role": "assistant", "content": "x", "extra": deep(900)}),
            "messages[1]: 'extra' is nested more than 100 levels deep",
        ),
        (
            {"messages": [USER, ANSWER], "tools": [TOOL | {"more": deep(900)}]},
            "'tools' is nested more than 100 levels deep",
        ),
        ({"messages": "[" * 100_000}, "'messages' holds JSON that is nested too deeply"),
        ({"messages": [USER, ANSWER], "tools": "f"}, "'tools' is a string that is not JSON"),
        ({"messages": [USER, ANSWER], "tools": {"f": 1}}, "'tools' is an object, expected a list of functions"),
        ({"messages": [USER, ANSWER], "tools": [{"type": "x"}]}, "tools[0] is not a function with a 'name'"),
        (bad_message(ANSWER | {"weight": 0.5}), "messages[1]: 'weight' is 0.5, expected 0 or 1"),
        (bad_message(ANSWER | {"train": "no"}), "messages[1]: 'train' is a string, expected true or false"),
        (
            bad_message(ANSWER | {"train": True, "weight": 0}),
            "messages[1]: 'train', 'weight' contradict one another; keep one",
        ),
        (
            bad_message(ANSWER | {"train_detail": [{"begin_offset": 0}]}),
            "messages[1]: marks parts of a message to be learnt, which is not supported; mark whole messages",
        ),
        (
            bad_message({"role": "assistant", "tool_calls": [CALL], "function_call": CALL["function"]}),
            "messages[1]: has 'tool_calls' and 'function_call'; keep one",
        ),
        (
            bad_message({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}),
            "messages[1]: tool_calls[0]: 'arguments' is a string that is not JSON",
        ),
        (
            bad_message({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}),
            "messages[1]: tool_calls[0]: 'arguments' is a list, expected an object",
        ),
        (
            bad_message({"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}),
            "messages[1]: tool_calls[0]: 'name' is null, expected the function's name",
        ),
        (
            bad_message({"role": "assistant", "tool_calls": {"a": 1}}),
            "messages[1]: 'tool_calls' is an object, expected",
        ),
        (bad_message({"role": "assistant", "tool_calls": ["f"]}), "messages[1]: tool_calls[0] is a string, expected"),
        *[
            (
                {"prompt": text, "completion": "I"},
                f"messages[0] begins as a text that a chat template has rendered already ({text.strip()[:30]!r}); give "
                "the turns as messages",
            )
            for text in RENDERED
        ],
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
            bad_message(
                {"role": "assistant", "content": None, "tool_calls": [{"name": "f <|MASK|>", "arguments": {}}]}
            ),
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
        ({"instruction": "x", "output": "y", "history": [["q"]]}, "history[0] is not a pair of question and answer"),
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
