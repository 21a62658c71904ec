"""Real chat templates, and what a judge that knows nothing of the algorithm says about the labels of rows in them.

The rows' texts are words that stand nowhere else, so what a token belongs to shows in the rendered text alone.
"""

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.pipelines.demo.wheels import cache_dir

SDIST = "llama-cpp-python==0.3.36"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
NO_LOSS = -100
# What ends an answer in these templates, as their models' tokenizers have it.
_ENDS = (
    "<|assistant_end|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|end_of_msg|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<turn|>",
    "<｜end▁of▁sentence｜>",
    "<|end_of_text|>",
    "<end_of_sentence>",
    "[e~[",
    "<|role_end|>",
    "<sep>",
    "<seed:eos>",
    "<SPECIAL_12>",
    "<|eot|>",
    "<|message_sep|>",
    "</assistant>",
    "<｜hy_eos:opensource｜>",
    "<|end|>",
    "<|eos|>",
)
_TAG = re.compile(r"<[|｜/]?[A-Za-z_▁:|｜ -]+[|｜]?>|\[/?[A-Z_]+\]|</?s>")


def fetch_templates(folder: Path | None = None) -> dict[str, str]:
    """The chat templates in the sdist, by name; it is kept in the demo's cache."""
    folder = (folder or cache_dir()) / "sdists" / SDIST_SHA256[:16]
    kept = folder / "templates.json"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=:all:", "--require-hashes"]
        options = ["--quiet", "--disable-pip-version-check", "--no-cache-dir", "--dest", str(folder)]
        subprocess.run([*pip, "--requirement", str(requirements), *options], check=True)
        (sdist,) = folder.glob("*.tar.gz")
        with tarfile.open(sdist) as archive:
            files = [file for file in archive if "/models/templates/" in file.name and file.name.endswith(".jinja")]
            templates = {Path(file.name).stem: archive.extractfile(file).read().decode() for file in files}
        kept.write_text(json.dumps(templates))
        sdist.unlink()
    return json.loads(kept.read_text())


class Row(NamedTuple):
    """A row, the words of each of its turns, and which turns are learnt."""

    messages: list[dict[str, Any]]
    learnt: list[int]
    tools: list[dict[str, Any]] | None = None
    unmask: bool = False


def _user(number: int) -> dict[str, Any]:
    return {"role": "user", "content": f"Question qu{number}ax, please zo{number}ob"}


def _answer(number: int, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": f"Answer an{number}ax indeed en{number}od", **more}


def _call(number: int, **more: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": {"city": f"Town to{number}ax end te{number}od", **more}}
    return {"id": f"call0000{number}", "type": "function", "function": function}


def _tool(number: int) -> dict[str, Any]:
    return {
        "role": "tool",
        "name": "weather",
        "tool_call_id": f"call0000{number}",
        "content": f"Result re{number}ax ro{number}od",
    }


_SYSTEM = {"role": "system", "content": "Rules sy0ax always so0od"}
_DEVELOPER = {"role": "developer", "content": "Rules de0ax always do0od"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "The city."}},
                "required": ["city"],
            },
        },
    }
]


def _thought(number: int) -> str:
    return f"Thought th{number}ax then tu{number}od"


KINDS: dict[str, Row] = {
    "plain": Row([_user(1), _answer(1)], [1]),
    "system": Row([_SYSTEM, _user(1), _answer(1)], [2]),
    "multi-turn": Row([_user(1), _answer(1), _user(2), _answer(2), _user(3), _answer(3)], [1, 3, 5]),
    "u a u": Row([_user(1), _answer(1), _user(2)], [1]),
    "developer": Row([_DEVELOPER, _user(1), _answer(1)], [2]),
    "late system": Row([_user(1), _answer(1), _SYSTEM, _user(2), _answer(2)], [1, 4]),
    "unmask": Row([_user(1), _answer(1), _user(2), _answer(2)], [0, 1, 2, 3], unmask=True),
    "prompt, completion": Row([_user(1), _answer(1), _user(2), _answer(2)], [3]),
    "call, null": Row(
        [_user(1), {"role": "assistant", "content": None, "tool_calls": [_call(1)]}, _tool(1), _answer(2)],
        [1, 3],
        TOOLS,
    ),
    'call, ""': Row(
        [_user(1), {"role": "assistant", "content": "", "tool_calls": [_call(1)]}, _tool(1), _answer(2)], [1, 3], TOOLS
    ),
    "call, text": Row([_user(1), _answer(1, tool_calls=[_call(1)]), _tool(1), _answer(2)], [1, 3], TOOLS),
    "call at the end": Row([_user(1), {"role": "assistant", "content": None, "tool_calls": [_call(1)]}], [1], TOOLS),
    "parallel calls": Row(
        [
            _user(1),
            {"role": "assistant", "content": None, "tool_calls": [_call(1), _call(2)]},
            _tool(1),
            _tool(2),
            _answer(2),
        ],
        [1, 4],
        TOOLS,
    ),
    "calls in turn": Row(
        [
            _user(1),
            {"role": "assistant", "content": None, "tool_calls": [_call(1)]},
            _tool(1),
            {"role": "assistant", "content": None, "tool_calls": [_call(2)]},
            _tool(2),
            _answer(2),
            _user(3),
            _answer(3),
        ],
        [1, 3, 5, 7],
        TOOLS,
    ),
    "reasoning": Row([_user(1), _answer(1, reasoning_content=_thought(1))], [1]),
    "reasoning (reasoning)": Row([_user(1), _answer(1, reasoning=_thought(1))], [1]),
    "reasoning (thinking)": Row([_user(1), _answer(1, thinking=_thought(1))], [1]),
    "earlier reasoning": Row(
        [_user(1), _answer(1, reasoning_content=_thought(1)), _user(2), _answer(2, reasoning_content=_thought(2))],
        [1, 3],
    ),
    "reasoning, calls": Row(
        [
            _user(1),
            _answer(1, reasoning_content=_thought(1)),
            _user(2),
            {"role": "assistant", "content": None, "reasoning_content": _thought(2), "tool_calls": [_call(2)]},
            _tool(2),
            _answer(3, reasoning_content=_thought(3)),
        ],
        [1, 3, 5],
        TOOLS,
    ),
    "<think> in content": Row(
        [
            _user(1),
            {"role": "assistant", "content": f"<think>\n{_thought(1)}\n</think>\n\nAnswer an1ax indeed en1od"},
            _user(2),
            {"role": "assistant", "content": f"<think>\n{_thought(2)}\n</think>\n\nAnswer an2ax indeed en2od"},
        ],
        [1, 3],
    ),
}


@cache
def core_tokenizer(special_tokens: tuple[str, ...]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(["Question please Answer indeed Town end Result Thought then Rules always"] * 9, trainer)
    return core


def tokenizer_for(template: str, knows_its_end: bool = True) -> Any:
    """A tokenizer that has the tags of a template as special tokens, and as its eos the end of an answer, or not."""
    from transformers import PreTrainedTokenizerFast

    tags = sorted({"<|bos|>", "<|eos|>", "<|other|>", "<think>", "</think>", *_ENDS} | set(_TAG.findall(template)))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core_tokenizer(tuple(tags)), bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|eos|>"
    )
    tokenizer.chat_template = template
    end = end_of_answer(tokenizer)
    tokenizer.eos_token = (end or "<|eos|>") if knows_its_end else "<|other|>"
    return tokenizer


def end_of_answer(tokenizer: Any) -> str | None:
    """The token behind an answer that ends it; the last answer's may be another."""
    try:
        text = tokenizer.apply_chat_template(KINDS["multi-turn"].messages, tools=TOOLS, tokenize=False)
    except Exception:
        return None
    behind = text.split("en1od")[-1].split("qu2ax")[0]
    return next((end for end in _ENDS if end in behind), None)


def judge(tokenizer: Any, row: Row, input_ids: list[int], labels: list[int], turn_end: str | None) -> list[str]:
    """What is wrong with the labels of a row, in words; empty where nothing is.

    It reads the plain rendering: which tokens hold words of which turn, where the end of an answer stands, and what
    the generation prompt writes.
    """
    given = [{key: value for key, value in message.items() if value is not None} for message in row.messages]
    text = plain_text(tokenizer, row)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if encoded["input_ids"] != input_ids:
        return ["the ids are not those of the plain conversation"]
    if any(label not in (NO_LOSS, token) for label, token in zip(labels, input_ids, strict=True)):
        return ["a label is not its token"]
    has_loss = [False] * len(text)
    for (begin, end), label in zip(encoded["offset_mapping"], labels, strict=True):
        has_loss[begin:end] = [label != NO_LOSS] * (end - begin)
    wrong = []
    places: list[tuple[int, int, int]] = []
    for index, message in enumerate(given):
        for word in _words({"tool_calls": message.get("tool_calls"), "content": message.get("content")}):
            if word not in text and not word.startswith("t"):
                wrong.append(f"{word} of messages[{index}] is not in the text")
        for word in _words(message):
            for match in re.finditer(word, text):
                places.append((match.start(), match.end(), index))
                lost = has_loss[match.start() : match.end()]
                if index in row.learnt and not all(lost):
                    wrong.append(f"{word} of messages[{index}] is not learnt")
                if index not in row.learnt and any(lost):
                    wrong.append(f"{word} of messages[{index}] is learnt")
    places.sort()
    prompt = _generation_prompt(tokenizer, row)
    # Between the last word of one turn and the first of the next: an end, then a header.
    for (_, end, index), (begin, _, following) in zip(places, [*places[1:], (len(text), 0, -1)], strict=True):
        if index == following:
            between = has_loss[end:begin]
            if index in row.learnt and given[index]["role"] == "assistant" and not all(between):
                wrong.append(f"of {text[end:begin]!r} within messages[{index}] not all is learnt")
            continue
        gap = text[end:begin]
        at = gap.find(turn_end) if turn_end else -1
        if "<|START_OF_TURN_TOKEN|>" in gap[: max(at, 0)]:
            at = -1
        if index in row.learnt and at >= 0 and not all(has_loss[end : end + at + len(turn_end)]):
            wrong.append(f"the end of messages[{index}] is not learnt: {gap!r}")
        if index not in row.learnt and at >= 0 and any(has_loss[end : end + at + len(turn_end)]):
            wrong.append(f"the end of messages[{index}] is learnt: {gap!r}")
        # What is learnt begins at the gap's begin, or lasts to its end.
        runs = re.sub(r"(.)\1*", r"\1", "".join("x" if one else "-" for one in has_loss[end:begin]))
        allowed = {"-", ""}
        if index in row.learnt:
            allowed |= {"x-", "x"}
        if following in row.learnt:
            allowed |= {"-x", "x"} | ({"x-x"} if index in row.learnt else set())
        if runs not in allowed:
            wrong.append(f"of {gap!r} behind messages[{index}] something in the middle is learnt")
        if (
            prompt
            and prompt in gap
            and any(has_loss[end + gap.rindex(prompt) : end + gap.rindex(prompt) + len(prompt)])
        ):
            wrong.append(f"a generation prompt is learnt: {gap!r}")
        for role in re.finditer(r"(?<![/\w])(user|human|SYSTEM|USER|system)(?!\w)|SYSTEM_TOKEN|USER_TOKEN", gap):
            if any(has_loss[end + role.start() : end + role.end()]):
                wrong.append(f"a header is learnt: {gap!r}")
    return wrong


def plain_text(tokenizer: Any, row: Row) -> str:
    """The plain rendering; of a row that the template refuses, that of the same row in another spelling."""
    from transformers.utils.chat_template_utils import render_jinja_template

    refused = None
    for content in ("as it is", None, ""):
        for as_text in (False, True):
            messages = [_as_version_5_gives_it(message) for message in json.loads(json.dumps(row.messages))]
            for message in messages:
                if message["role"] == "assistant" and "content" not in message and content != "as it is":
                    message["content"] = content
                for call in message.get("tool_calls", []) if as_text else []:
                    call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
            try:
                if content is None:
                    # apply_chat_template takes nulls away.
                    variables = tokenizer.special_tokens_map
                    ((text,), _) = render_jinja_template(
                        conversations=[messages], tools=row.tools, chat_template=tokenizer.chat_template, **variables
                    )
                    return text
                return tokenizer.apply_chat_template(messages, tools=row.tools, tokenize=False)
            except Exception as error:
                refused = refused or error
    raise refused


def _as_version_5_gives_it(message: dict[str, Any]) -> dict[str, Any]:
    """transformers 5 drops nulls and passes reasoning on under the names that templates read; 4 does neither."""
    message = {name: value for name, value in message.items() if value is not None}
    reasoning = next(
        (message[name] for name in ("reasoning_content", "thinking", "reasoning") if name in message), None
    )
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _words(message: dict[str, Any]) -> list[str]:
    return sorted(set(re.findall(r"\b[a-z]{2}\d(?:ax|ob|od)\b", json.dumps(message))))


def _generation_prompt(tokenizer: Any, row: Row) -> str:
    question = [_user(9)]
    try:
        with_prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
        without = tokenizer.apply_chat_template(question, tokenize=False)
    except Exception:
        return ""
    return with_prompt.removeprefix(without) if with_prompt.startswith(without) else ""


def learnt_text(tokenizer: Any, input_ids: list[int], labels: list[int]) -> str:
    text, on = "", False
    for token, label in zip(input_ids, labels, strict=True):
        if (label != NO_LOSS) != on:
            text, on = text + ("]]" if on else "[["), not on
        text += tokenizer.decode([token])
    return text + ("]]" if on else "")


def results(kinds: dict[str, Row] = KINDS) -> Iterator[tuple[str, str, str, Any]]:
    """For each template and kind of row: "right", "error" with its text, or "WRONG" with what is wrong."""
    from kfp_osft.shared.reporting.errors import InputError
    from kfp_osft.shared.rows.chat_tokens import ChatTokenizer
    from kfp_osft.shared.rows.messages import Conversation

    for name, template in sorted(fetch_templates().items()):
        for knows_its_end in (True, False):
            tokenizer = tokenizer_for(template, knows_its_end)
            chat = ChatTokenizer(tokenizer)
            turn_end = end_of_answer(tokenizer)
            if not knows_its_end and "eos_token" in template:
                # It writes <|other|> then.
                turn_end = turn_end and turn_end.replace("<|eos|>", "<|other|>")
            for kind, row in kinds.items():
                roles = frozenset({"assistant"}) if not row.unmask else frozenset({"assistant", "user"})
                given = 3 if kind.startswith("prompt") else 0
                conversation = Conversation("row", row.messages, roles, given, row.tools)
                label = kind if knows_its_end else kind + ", another eos"
                try:
                    ((_, sample),) = chat.samples([conversation])
                except InputError as error:
                    yield name, label, "error", str(error)
                    continue
                wrong = judge(tokenizer, row, sample.input_ids, sample.labels, turn_end)
                shown = learnt_text(tokenizer, sample.input_ids, sample.labels)
                yield name, label, "WRONG" if wrong else "right", (wrong, shown)
