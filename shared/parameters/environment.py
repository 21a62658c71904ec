"""Environment variables of a training by their names: those that the runtime owns, and secrets, kept out of output."""

import re
from collections.abc import Iterable, Mapping

# The runtime gives a worker its place among the others in these; training_hub reads them.
_RUNTIME = re.compile(
    r"PET_.*|MASTER_ADDR|MASTER_PORT|RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|NODE_RANK|OSFT_TRAIN_ARGS"
)
_SECRET = re.compile(
    r"(.*_)?(TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|APIKEY|API_KEY|SECRET_ACCESS_KEY|ACCESS_KEY_ID|PULL_SECRET.*)",
    re.IGNORECASE,
)
_SECRET_PART = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|CREDENTIALS?|KEY|APIKEY)($|_)", re.IGNORECASE)
# A shorter value would blot out parts of words.
_SHORTEST_SECRET = 8


def is_runtimes_own(name: str) -> bool:
    """Whether the training runtime sets this variable (PET_NNODES, MASTER_ADDR, ...)."""
    return bool(_RUNTIME.fullmatch(name))


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds a secret (HF_TOKEN, WANDB_API_KEY, ...)."""
    return bool(_SECRET.fullmatch(name))


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """The values to blot out of any output, the longest first; a few too many rather than one too few."""
    found = {
        value for name, value in environment.items() if _SECRET_PART.search(name) and len(value) >= _SHORTEST_SECRET
    }
    return sorted(found, key=len, reverse=True)


def blot_out(text: str, secrets: Iterable[str]) -> str:
    """The text with stars in the place of each secret."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
