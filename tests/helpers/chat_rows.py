"""Conversations of every kind that tokenizing must get right."""

from typing import Any

from helpers.tokenizer_families import CHATML_TOKENS, LLAMA_TOKENS, MISTRAL_TOKENS


def said(role: str, content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


QUESTION = "What is the capital of Austria?"
ANSWER = "Vienna is the capital of Austria, and the seat of its government."
LIKE_SPECIAL_TOKENS = "".join([*CHATML_TOKENS, *LLAMA_TOKENS, *MISTRAL_TOKENS, "[INST] [/INST] <think></think>"])
ROWS = {
    "one turn": [said("user", QUESTION), said("assistant", ANSWER)],
    "many turns": [said("user", QUESTION), said("assistant", ANSWER)] * 3,
    "system": [said("system", "You are a helpful assistant."), said("user", QUESTION), said("assistant", ANSWER)],
    "ends with a question": [said("user", QUESTION), said("assistant", ANSWER), said("user", QUESTION)],
    "the same text in all roles": [said(role, ANSWER) for role in ("system", "user", "assistant")],
    "unicode": [
        said("user", "Größe? 漢字かな שלום a\u0301 ﬁ \u00a0 \u2581 \u200d"),
        said("assistant", "\U0001f600 \U0001f468\u200d\U0001f469 naïve ½ ①"),
    ],
    "blanks": [said("user", "  \n\t" + QUESTION + "\r\n "), said("assistant", "\n\n  " + ANSWER + "\t\n")],
    "zero byte": [said("user", f"a\0b {QUESTION}"), said("assistant", f"{ANSWER}\0")],
    "jinja": [
        said("user", "{{ messages }} {% if x %} {# #}" + QUESTION),
        said("assistant", ANSWER + "{{ eos_token }}"),
    ],
    "special tokens in the question": [said("user", QUESTION + LIKE_SPECIAL_TOKENS), said("assistant", ANSWER)],
    "special tokens in the answer": [said("user", QUESTION), said("assistant", ANSWER + LIKE_SPECIAL_TOKENS + ANSWER)],
    "special tokens in the second question": [
        said("user", QUESTION),
        said("assistant", ANSWER),
        said("user", QUESTION + LIKE_SPECIAL_TOKENS),
        said("assistant", ANSWER),
    ],
    "special tokens in the second answer": [
        said("user", QUESTION),
        said("assistant", ANSWER),
        said("user", QUESTION),
        said("assistant", ANSWER + LIKE_SPECIAL_TOKENS + ANSWER),
    ],
    "an end of turn in the answer": [
        said("user", QUESTION),
        said("assistant", f"{ANSWER}<|im_end|>\n<|im_start|>user\n"),
        said("user", QUESTION),
        said("assistant", ANSWER),
    ],
    "empty answer": [said("user", QUESTION), said("assistant", ""), said("user", ""), said("assistant", ANSWER)],
    "blank answer": [
        said("user", QUESTION),
        said("assistant", "  \n"),
        said("user", QUESTION),
        said("assistant", ANSWER),
    ],
    "further fields": [said("user", QUESTION, name="me"), said("assistant", ANSWER, name="you", weight=1)],
}
REASONING_ROWS = {
    "reasoning": [said("user", QUESTION), said("assistant", ANSWER, reasoning_content="Hm.\nAustria...\n")],
    "earlier reasoning": [
        said("user", QUESTION),
        said("assistant", ANSWER, reasoning_content="Hm."),
        said("user", QUESTION),
        said("assistant", ANSWER),
    ],
    "reasoning in all turns": [
        said("user", QUESTION),
        said("assistant", ANSWER, reasoning_content="Hm."),
        said("user", QUESTION),
        said("assistant", ANSWER, reasoning_content="Well."),
    ],
    "reasoning in some turns": [
        said("user", QUESTION),
        said("assistant", ANSWER, reasoning_content="Hm."),
        said("user", QUESTION),
        said("assistant", ANSWER),
        said("user", QUESTION),
        said("assistant", ANSWER, reasoning_content="Well."),
    ],
    "empty reasoning": [said("user", QUESTION), said("assistant", ANSWER, reasoning_content="")],
    "null reasoning": [said("user", QUESTION), said("assistant", ANSWER, reasoning_content=None)],
    "thinking": [said("user", QUESTION), said("assistant", ANSWER, thinking="Hm.")],
    "a question with reasoning": [said("user", QUESTION, reasoning_content="Hm."), said("assistant", ANSWER)],
}
FREE_ROWS = {
    "tool": [
        said("user", QUESTION),
        said("assistant", ANSWER),
        said("tool", '{"city": "Vienna"}'),
        said("assistant", ANSWER),
    ],
    "two answers": [said("user", QUESTION), said("assistant", ANSWER), said("assistant", ANSWER)],
    "answer first": [said("assistant", ANSWER), said("user", QUESTION)],
    "late system": [said("user", QUESTION), said("system", "Be brief."), said("assistant", ANSWER)],
    "pretraining": [said("pretraining", f"<|user|>\n{QUESTION}\n<|assistant|>\n{ANSWER}\n<|endoftext|>")],
    "pretraining in Granite's form": [
        said(
            "pretraining",
            f"<|start_of_role|>user<|end_of_role|>\n{QUESTION}<|end_of_text|>"
            f"<|start_of_role|>assistant<|end_of_role|>\n{ANSWER}<|end_of_text|>",
        )
    ],
    "pretraining after system": [said("system", "Be brief."), said("pretraining", f"<|assistant|>\n{ANSWER}")],
}


def call(arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "capital_of", "arguments": arguments}}
