"""The forms in which people have messages and tools, brought to the one that chat templates read.

That form is transformers': tool calls as {"type": "function", "function": {"name", "arguments"}} with the arguments as
an object, content as text, no field that is null, and `train` where a message says whether it is learnt.
"""

import json
from collections.abc import Mapping
from typing import Any

from kfp_osft.shared.reporting.errors import InputError, kind_of
from kfp_osft.shared.rows.messages import json_text

# How messages say whether they are learnt: Axolotl (train, training), ms-swift (loss), OpenAI (weight), and torchtune,
# the other way round (masked).
_TRAIN_FIELDS = ("train", "training", "loss", "weight")
_MASK_FIELDS = ("masked",)
# Axolotl's marks within a message.
_DETAILED_FIELDS = ("train_detail", "training_detail")
# A role of OpenAI's first function calling, and what it is called now.
_OLD_ROLES = {"function": "tool"}
_TEXT_PARTS = ("text", "input_text", "output_text")


def normalized_message(place: str, message: Any) -> Any:
    """The message in the form of this module; what is not an object is given back for its check to refuse.

    Raises:
        InputError: naming the place and the field: parts of content that are not text, a tool call without a name,
            arguments that are not an object, a `train` or `weight` that is neither true nor false.
    """
    if not isinstance(message, Mapping):
        return message
    # Parquet, and tools that write tables, fill the fields of all messages with nulls.
    normal = {field: value for field, value in message.items() if value is not None and field != "train"}
    role = normal.get("role")
    if isinstance(role, str):
        normal["role"] = role = _OLD_ROLES.get(role, role)
    if isinstance(normal.get("content"), list):
        normal["content"] = _text_of_parts(f"{place}: 'content'", normal["content"])
    calls = _json_field(place, normal, "tool_calls")
    old_call = _json_field(place, normal, "function_call")
    normal.pop("tool_calls", None)
    normal.pop("function_call", None)
    if calls and old_call:
        raise InputError(f"{place}: has 'tool_calls' and 'function_call'; keep one")
    if old_call:
        normal["tool_calls"] = [_tool_call(f"{place}: 'function_call'", old_call)]
    elif calls:
        if not isinstance(calls, list):
            raise InputError(f"{place}: 'tool_calls' is {kind_of(calls)}, expected a list")
        normal["tool_calls"] = [
            _tool_call(f"{place}: tool_calls[{index}]", call) for index, call in enumerate(calls) if call is not None
        ]
    if role == "assistant" and normal.get("tool_calls"):
        # OpenAI's standard form; a template may ask for the field.
        normal.setdefault("content", None)
    train = _train(place, message)
    for field in (*_TRAIN_FIELDS, *_MASK_FIELDS):
        normal.pop(field, None)
    return normal if train is None else normal | {"train": train}


def normalized_tools(place: str, values: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """A row's `tools`, or its `functions` (OpenAI's first form), for the chat template; None where there are none.

    Raises:
        InputError: naming the row: a text that is not JSON, something else than a list of objects with names.
    """
    field = "tools" if values.get("tools") not in (None, "", []) else "functions"
    tools = values.get(field)
    if isinstance(tools, str) and tools.strip():
        tools = parsed_json(f"{place}: '{field}'", tools)
    if tools in (None, "", []) or (isinstance(tools, str) and not tools.strip()):
        return None
    if not isinstance(tools, list):
        raise InputError(f"{place}: '{field}' is {kind_of(tools)}, expected a list of functions")
    normal = []
    for index, tool in enumerate(tools):
        if isinstance(tool, str):
            tool = parsed_json(f"{place}: {field}[{index}]", tool)
        if isinstance(tool, Mapping) and "name" in tool and not isinstance(tool.get("function"), Mapping):
            tool = {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InputError(f"{place}: {field}[{index}] is not a function with a 'name'")
        normal.append(dict(tool))
    json_text(f"{place}: '{field}'", normal)
    return normal


def parsed_json(what: str, text: str) -> Any:
    """The value of a text that holds JSON.

    Raises:
        InputError: beginning with `what`: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except ValueError:
        raise InputError(f"{what} is a string that is not JSON") from None
    except RecursionError:
        raise InputError(f"{what} holds JSON that is nested too deeply") from None


def truth_of(value: Any) -> bool | None:
    """True or false as tables have them: a boolean, 0 or 1, "True" or "false"; None for anything else."""
    if isinstance(value, str):
        return {"true": True, "false": False, "1": True, "0": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, (bool, int, float)) and value in (0, 1) else None


def _text_of_parts(what: str, parts: list[Any]) -> Any:
    """OpenAI's parts of content as one text."""
    texts = []
    for index, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            texts.append(part)
        elif kind in _TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            found = f"a part of type {kind!r}" if isinstance(kind, str) else kind_of(part)
            raise InputError(f"{what}[{index}] is {found}; only text is trained on")
    return "".join(texts)


def _json_field(place: str, message: Mapping[str, Any], field: str) -> Any:
    value = message.get(field)
    if not isinstance(value, str):
        return value
    return parsed_json(f"{place}: '{field}'", value) if value.strip() else None


def _tool_call(place: str, call: Any) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise InputError(f"{place} is {kind_of(call)}, expected an object with the function's 'name' and 'arguments'")
    call = {field: value for field, value in call.items() if value is not None}
    if not isinstance(call.get("function"), Mapping):
        beside = {field: value for field, value in call.items() if field not in ("name", "arguments", "type")}
        call = beside | {"function": {field: call[field] for field in ("name", "arguments") if field in call}}
    function = {field: value for field, value in call["function"].items() if value is not None}
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise InputError(f"{place}: 'name' is {kind_of(name)}, expected the function's name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        # Templates print an object; a string of JSON would be encoded twice.
        arguments = parsed_json(f"{place}: 'arguments'", arguments) if arguments.strip() else {}
    if not isinstance(arguments, Mapping):
        raise InputError(f"{place}: 'arguments' is {kind_of(arguments)}, expected an object")
    return call | {"type": "function", "function": function | {"arguments": dict(arguments)}}


def _train(place: str, message: Mapping[str, Any]) -> bool | None:
    said: dict[str, bool] = {}
    for field in (*_TRAIN_FIELDS, *_MASK_FIELDS):
        value = message.get(field)
        if value is None:
            continue
        truth = truth_of(value)
        if truth is None:
            raise InputError(
                f"{place}: '{field}' is {value if isinstance(value, (int, float)) else kind_of(value)}, "
                f"expected {'0 or 1' if field == 'weight' else 'true or false'}"
            )
        if field == "weight" and truth:
            # OpenAI's 1 is what an assistant's message has anyway, and says nothing of others.
            continue
        said[field] = truth != (field in _MASK_FIELDS)
    if any(message.get(field) for field in _DETAILED_FIELDS):
        raise InputError(f"{place}: marks parts of a message to be learnt, which is not supported; mark whole messages")
    if len(set(said.values())) > 1:
        raise InputError(f"{place}: {', '.join(map(repr, said))} contradict one another; keep one")
    return next(iter(said.values()), None)
