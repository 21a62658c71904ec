"""kfp-osft ask: one question, or a chat, with a model and perhaps its base beside it."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.pipelines.run_folders import find_model
from kfp_osft.pipelines.use.answers import next_turn
from kfp_osft.shared.model.loss import loaded_model
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log

_PROMPT = "> "


class _Speaker(NamedTuple):
    """A loaded model and its side of the chat; heading is empty where it is the only one."""

    heading: str
    model: Any
    tokenizer: Any
    messages: list[dict[str, str]]


def ask(model: str, question: str, base: str, max_new_tokens: int) -> None:
    """Prints answers while they come. Without a question, reads questions from standard input until it ends; each model
    remembers its own chat.

    Args:
        model: a model's folder, the output folder of kfp-osft run, or an id on the Hugging Face Hub.
        question: or empty.
        base: another model to answer first, as `model`; or empty.
        max_new_tokens: maximum length of an answer.

    Raises:
        InputError: not a model, one that transformers cannot load, or without a chat template.
    """
    if max_new_tokens < 1:
        raise InputError(f"--max-new-tokens={max_new_tokens} is not allowed; allowed: an integer of at least 1")
    given = [("--base", base, "before")] if base else []
    given.append(("MODEL", model, "after" if base else ""))
    folders = [(argument, find_model(argument, text), heading) for argument, text, heading in given]
    with contextlib.ExitStack() as stack:
        speakers = [
            _Speaker(heading, *stack.enter_context(_loaded(argument, folder)), [])
            for argument, folder, heading in folders
        ]
        if question:
            _answer(speakers, question, max_new_tokens)
            return
        _chat(speakers, max_new_tokens)


@contextlib.contextmanager
def _loaded(argument: str, folder: Path) -> Iterator[tuple[Any, Any]]:
    with contextlib.ExitStack() as stack:
        try:
            loaded = stack.enter_context(loaded_model(folder))
        # transformers raises what its parts raise.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{argument}={folder}: transformers cannot load it: {reason}") from None
        if not loaded[1].chat_template:
            raise InputError(f"{argument}={folder}: the model has no chat template, so it cannot be asked as a chat")
        yield loaded


def _chat(speakers: Sequence[_Speaker], max_new_tokens: int) -> None:
    with contextlib.suppress(ImportError):
        # Arrow keys, in what input() reads.
        import readline  # noqa: F401
    log("Ask; an empty line or Ctrl-D ends it, Ctrl-C stops an answer.")
    while question := _read():
        try:
            _answer(speakers, question, max_new_tokens)
        except KeyboardInterrupt:
            log("")
            _forget_last(speakers)
        except InputError as error:
            log(f"{error}; the chat begins anew")
            for speaker in speakers:
                speaker.messages.clear()


def _read() -> str:
    try:
        return input(_PROMPT).strip()
    except (EOFError, KeyboardInterrupt):
        log("")
        return ""


def _answer(speakers: Sequence[_Speaker], question: str, max_new_tokens: int) -> None:
    for speaker in speakers:
        if speaker.heading:
            log(f"{speaker.heading}:")
        speaker.messages.append({"role": "user", "content": question})
        answer = next_turn(
            speaker.model,
            speaker.tokenizer,
            speaker.messages,
            max_new_tokens,
            lambda text: print(text, end="", flush=True),
        )
        log("")
        speaker.messages.append({"role": "assistant", "content": answer})


def _forget_last(speakers: Sequence[_Speaker]) -> None:
    """Of a question whose answer was stopped nobody knows anything."""
    complete = min(len(speaker.messages) // 2 for speaker in speakers)
    for speaker in speakers:
        del speaker.messages[2 * complete :]
