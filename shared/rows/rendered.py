"""Texts that a chat template has rendered already: rendered again, their turns would lie in a turn."""

import re

# How the turns of the common chat templates begin.
_BEGINS = re.compile(
    r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<｜begin▁of▁sentence｜>|<\|startoftext\|>|<BOS_TOKEN>|\[gMASK\]<sop>)?\s*"
    r"(?:<\|im_start\|>|<\|im_system\|>|<\|im_user\|>|<\|start_header_id\|>|<\|header_start\|>|<start_of_turn>|"
    r"<\|turn>|\[INST\]|\[SYSTEM_PROMPT\]|<\|start_of_role\|>|<\|START_OF_TURN_TOKEN\|>|<｜User｜>|<\|role_start\|>|"
    r"<\|(?:system|user|assistant|human|start)\|>)"
)
# Formats of plain words are known by their two sides.
_ALPACA = ("### Instruction:", "### Response:")
_IN_WORDS = {"Human:": "Assistant:", "USER:": "ASSISTANT:"}
_ENDS = (
    *(
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|eot|>",
        "<end_of_turn>",
        "<turn|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
    ),
    *("<|endoftext|>", "<|end_of_text|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "<eos>", "<EOS_TOKEN>"),
)
# As HTML it strikes through what stands before it.
_END_OF_SEQUENCE, _BEGIN_OF_SEQUENCE = "</s>", "<s>"
_MOST_BLANKS = 200


def is_rendered(text: str) -> bool:
    """Whether a text begins as a conversation that a chat template has rendered."""
    head = text[:_MOST_BLANKS].lstrip()
    if head[:1] in ("<", "["):
        return bool(_BEGINS.match(text))
    if head.startswith(tuple(_IN_WORDS)):
        return _IN_WORDS[head.partition(":")[0] + ":"] in text
    one, other = _ALPACA
    return one in text and other in text


def without_end(text: str, eos_token: str | None = None) -> str:
    """The text without the end-of-turn tokens at its end: the chat template writes one itself.

    Args:
        eos_token: of the model's tokenizer, beside those of the common templates.
    """
    ends = (*_ENDS, eos_token) if eos_token else _ENDS
    while True:
        bare = text.rstrip()
        if bare.endswith(_END_OF_SEQUENCE) and _BEGIN_OF_SEQUENCE not in bare:
            text = bare.removesuffix(_END_OF_SEQUENCE)
        elif bare.endswith(ends):
            text = bare.removesuffix(next(end for end in ends if bare.endswith(end)))
        else:
            return text
