import json

import pytest

from kfp_osft.shared.rows.normalized import normalized_message, truth_of

ARGUMENTS = {"city": "Wien", "days": [1, None], "unit": None}
CALL = {"type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}


@pytest.mark.parametrize(
    "calls",
    [
        {"tool_calls": [CALL]},
        {"tool_calls": json.dumps([CALL])},
        {"tool_calls": [{"function": {"name": "f", "arguments": json.dumps(ARGUMENTS)}}]},
        {"tool_calls": [{"name": "f", "arguments": ARGUMENTS}]},
        {"tool_calls": [{"type": "function", "name": "f", "arguments": json.dumps(ARGUMENTS), "id": None}]},
        {"function_call": {"name": "f", "arguments": json.dumps(ARGUMENTS)}},
        {"function_call": {"name": "f", "arguments": ARGUMENTS}, "tool_calls": []},
        {"function_call": json.dumps({"name": "f", "arguments": ARGUMENTS}), "tool_calls": None},
    ],
)
@pytest.mark.parametrize("content", [{}, {"content": None}])
def test_a_call_in_each_of_its_forms_becomes_the_one_that_templates_read(calls: dict, content: dict):
    message = normalized_message("row 1: messages[0]", {"role": "assistant", **content, **calls})

    assert message == {"role": "assistant", "content": None, "tool_calls": [CALL]}


@pytest.mark.parametrize("arguments", ["", " ", "{}", None, {}])
def test_a_call_without_arguments_has_an_empty_object(arguments: object):
    call = {"function": {"name": "f", "arguments": arguments}}

    message = normalized_message("", {"role": "assistant", "tool_calls": [call]})

    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}


def test_the_id_of_a_call_and_other_fields_stay():
    call = CALL | {"id": "call_1"}

    assert normalized_message("", {"role": "assistant", "content": "I", "tool_calls": [call], "name": "me"}) == {
        "role": "assistant",
        "content": "I",
        "tool_calls": [call],
        "name": "me",
    }
    result = {"role": "tool", "content": "1", "tool_call_id": "call_1"}
    assert normalized_message("", result) == result


@pytest.mark.parametrize("field", ["tool_calls", "function_call", "name", "reasoning_content", "tool_call_id", "train"])
def test_a_field_that_is_null_is_dropped(field: str):
    assert normalized_message("", {"role": "user", "content": "Who?", field: None}) == {
        "role": "user",
        "content": "Who?",
    }


@pytest.mark.parametrize("calls", [[], None, "", "[]"])
def test_an_empty_list_of_calls_is_dropped(calls: object):
    message = {"role": "assistant", "content": "I", "tool_calls": calls}

    assert normalized_message("", message) == {"role": "assistant", "content": "I"}


def test_the_result_of_an_old_function_call_is_a_tools():
    assert normalized_message("", {"role": "function", "name": "f", "content": "1"}) == {
        "role": "tool",
        "name": "f",
        "content": "1",
    }


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([{"type": "text", "text": "Who?"}], "Who?"),
        (
            [{"type": "text", "text": "Who "}, {"type": "input_text", "text": "are you?", "image_url": None}],
            "Who are you?",
        ),
        (["Who ", {"type": "output_text", "text": "?"}], "Who ?"),
        ([], ""),
    ],
)
def test_parts_of_text_become_one_text(parts: list, text: str):
    assert normalized_message("", {"role": "user", "content": parts})["content"] == text


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0.0, False),
        ("True", True),
        ("false ", False),
        ("0", False),
        (2, None),
        ("yes", None),
        ("", None),
        (None, None),
        ([], None),
    ],
)
def test_truth_as_tables_have_it(value: object, truth: bool | None):
    assert truth_of(value) is truth
