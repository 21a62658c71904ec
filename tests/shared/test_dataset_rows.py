import json

import pytest

from kfp_osft.shared.dataset_files import Row
from kfp_osft.shared.dataset_rows import (
    MARKERS,
    Problems,
    is_unmasked,
    messages_of,
    without_pretraining_role,
)
from kfp_osft.shared.errors import InputError


def error_of(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


USER = {"role": "user", "content": "Who?"}
CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "messages",
    [
        [USER, {"role": "assistant", "content": "I"}],
        [USER, {"role": "assistant", "content": ""}],
        [USER, {"role": "assistant", "content": "I", "reasoning_content": "Hm", "thinking": "Hm"}],
        [USER | {"name": "me"}, {"role": "assistant", "content": "I", "weight": 1}],
        [USER, {"role": "assistant", "content": "I", "reasoning_content": None, "tool_calls": None}],
        [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]},
         {"role": "tool", "content": "1"}],
        [USER, {"role": "assistant", "tool_calls": [CALL]}],
    ],
)
@pytest.mark.parametrize("form", [lambda messages: messages, json.dumps], ids=["list", "string"])
def test_a_conversation_is_taken_as_a_list_or_as_its_json(messages: list, form):
    assert messages_of(Row("rows.jsonl, row 1", {"messages": form(messages)})) == messages


def bad_message(message: object) -> dict:
    return {"messages": [USER, message]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "has no 'messages'; it has no field"),
        ({"prompt": "a", "text": "b"}, "has no 'messages'; it has 'prompt', 'text'"),
        ({"messages": None}, "'messages' is null, expected a list of at least one message"),
        ({"messages": []}, "'messages' is an empty list, expected a list of at least one message"),
        ({"messages": "[]"}, "'messages' is an empty list, expected a list of at least one message"),
        ({"messages": {"role": "user"}}, "'messages' is an object, expected a list of at least one message"),
        ({"messages": 3}, "'messages' is a number, expected a list of at least one message"),
        ({"messages": "hello"}, "'messages' is a string that is not JSON"),
        ({"messages": ""}, "'messages' is a string that is not JSON"),
        (bad_message("hello"), "messages[1] is a string, expected an object with 'role' and 'content'"),
        (bad_message(None), "messages[1] is null, expected an object with 'role' and 'content'"),
        (bad_message({"content": "x"}),
         "messages[1]: 'role' is null, expected a string as 'user' or 'assistant'"),
        (bad_message({"role": "", "content": "x"}),
         "messages[1]: 'role' is an empty string, expected a string"),
        (bad_message({"role": 1, "content": "x"}), "messages[1]: 'role' is a number, expected a string"),
        (bad_message({"role": "assistant"}), "messages[1]: 'content' is null, expected a string"),
        (bad_message({"role": "assistant", "content": None}),
         "messages[1]: 'content' is null, expected a string"),
        (bad_message({"role": "assistant", "content": None, "tool_calls": []}),
         "messages[1]: 'content' is null, expected a string"),
        (bad_message({"role": "tool", "content": None, "tool_calls": [CALL]}),
         "messages[1]: 'content' is null, expected a string"),
        (bad_message({"role": "assistant", "content": 5}),
         "messages[1]: 'content' is a number, expected a string"),
        (bad_message({"role": "assistant", "content": True}),
         "messages[1]: 'content' is a boolean, expected a string"),
        (bad_message({"role": "assistant", "content": [{"type": "text", "text": "x"}]}),
         "messages[1]: 'content' is a list, expected a string"),
        (bad_message({"role": "assistant", "content": {"text": "x"}}),
         "messages[1]: 'content' is an object, expected a string"),
        (bad_message({"role": "assistant", "content": "x", "reasoning_content": 5}),
         "messages[1]: 'reasoning_content' is a number, expected a string"),
        (bad_message({"role": "assistant", "content": None, "tool_calls": [CALL], "thinking": ["x"]}),
         "messages[1]: 'thinking' is a list, expected a string"),
        *[(bad_message({"role": role, "content": "x"} | {field: f"a {marker} b"}),
           f"messages[1]: '{field}' holds {marker}, which the trainer uses as a mark of its own")
          for marker in MARKERS for role, field in [("user", "content"), ("assistant", "reasoning_content")]],
    ],
)
def test_a_bad_row_is_told_with_its_file_and_row(values: dict, message: str):
    assert error_of(messages_of, Row("rows.jsonl, row 7", values)).startswith(f"rows.jsonl, row 7: {message}")


@pytest.mark.parametrize(
    ("values", "parameter", "unmasked"),
    [({}, False, False), ({}, True, True), ({"unmask": True}, False, True), ({"unmask": False}, True, True),
     ({"unmask": None}, False, False)],
)
def test_a_row_or_the_parameter_opens_all_turns(values: dict, parameter: bool, unmasked: bool):
    assert is_unmasked(Row("rows.jsonl, row 1", values), parameter) is unmasked


def test_the_pretraining_role_is_unrolled_into_the_turns_inside_it():
    system = {"role": "system", "content": "Be kind."}
    legacy = "<|user|>\nWho?\n<|assistant|>\nI. <|endoftext|>"
    granite = ("<|start_of_role|>user<|end_of_role|>\nWho?"
               "<|start_of_role|>assistant<|end_of_role|>\nI.<|end_of_text|>")

    assert without_pretraining_role([system, {"role": "pretraining", "content": legacy}, USER]) == [
        system, {"role": "user", "content": "Who?\n"}, {"role": "assistant", "content": "I. "}, USER]
    assert without_pretraining_role([{"role": "pretraining", "content": granite}]) == [
        {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]
    assert without_pretraining_role([{"role": "pretraining", "content": "no turn"}]) == []


def test_the_first_problems_and_their_count_are_told_at_once():
    problems = Problems()
    problems.raise_if_any()
    for number in range(12):
        problems.add(f"row {number} is bad")

    assert error_of(problems.raise_if_any).splitlines() == [
        *[f"row {number} is bad" for number in range(10)], "and 2 more rows like these"]
