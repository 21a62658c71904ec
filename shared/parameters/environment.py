"""Environment variables by their names: where to train, what the runtime and trackers own, and secrets, kept out of
output."""

import base64
import binascii
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

#: Of the stages: LOCAL trains in a process of this computer; unset, on a cluster.
LAUNCHER_VARIABLE, LOCAL = "OSFT_LAUNCHER", "local"
#: What training_report_to may name: mini-trainer's own trackers, and event files, which the training script writes.
TRACKERS = ("mlflow", "tensorboard", "wandb")
# The runtime gives a worker its place among the others in these; training_hub reads them.
_RUNTIME = re.compile(
    r"PET_.*|MASTER_ADDR|MASTER_PORT|RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|NODE_RANK|OSFT_TRAIN_ARGS"
)
# A name is a secret's by one of its words, or by how a word ends (APIKEY, AUTHTOKEN). TOKENS are counted, not kept.
_SECRET_WORD = re.compile(
    r"PASS|PW|PWD|PAT|KEY|KEYS|AUTH|AUTHORIZATION|BEARER|COOKIE|DSN|JWT|OTP|HMAC|CREDS?|SAS|SALT|WEBHOOK|"
    r".*(TOKEN|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|PASSCODE|CREDENTIALS?|DOCKERCONFIG(JSON)?)|"
    r"(DB|USER|SMTP|LDAP|MAIL|ROOT|ADMIN)(PASS|PWD)|.*(SSH|API|ACCESS|PRIVATE|SECRET|SIGNING|ENCRYPTION|MASTER)KEYS?"
)
_SECRET_NAME = re.compile(
    r".*(DATABASE|DB|POSTGRES|POSTGRESQL|MYSQL|REDIS|MONGO|MONGODB|AMQP|BROKER)_UR[IL]|.*CONN(ECTION)?_?STR(ING)?|"
    r".*(SERVICE_ACCOUNT|_SA|GCP|DOCKER_CONFIG)_JSON"
)
# What only says where a secret is, or how one is used.
_NO_SECRET = re.compile(
    r".*_(FILE|PATH|DIR|FOLDER|NAME|TYPE|SOCK|URL_BASE)|(.*_)?(DISABLE|ENABLE|USE|NO)_.*|PWD|OLDPWD"
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
#: User and password in a URL, also with the slips of a person who types it. The password ends at the last @, since it
#: may contain / ? # and @ itself: rather a path's @ is taken for its end than a part of it shown. What is certainly a
#: host with its port, one before /@scope and one before an image's digest are left alone.
USER_INFO = re.compile(
    r"(?<![\w+.-])(?P<scheme>[A-Za-z][\w+.-]*:[/\\]+)"
    r"(?!(localhost|\[[^\]\s]*\]|\d+(\.\d+){3})(:\d+)?([/?#]|$))"
    r"(?![^\s/:@]*:\d+/([^\s@\"']{0,999}@sha256:|@)[^\s@\"']*(?![^\s\"']))"
    r"(?P<user>[^/\s@:\"'?#]*):(?P<password>[^\s\"']{1,999})@"
)
# Tokens that show what they are: of Hugging Face, GitHub, GitLab, AWS, Google, Slack, OpenAI and Anthropic, OpenShift,
# and JSON Web Tokens, as service accounts' are.
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|(AKIA|ASIA)[A-Z0-9]{16}|"
    r"AIza[\w-]{30,}|xox[abprs]-[\w-]{10,}|sk-(?=[a-z-]*[A-Z0-9])[\w-]{20,}|sha256~[\w-]{20,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)"
)
#: A shorter value would blot out parts of words.
SHORTEST_SECRET = 6


def is_local() -> bool:
    """Whether the training runs on this computer, beside the stages."""
    return os.environ.get(LAUNCHER_VARIABLE) == LOCAL


def is_of_unwanted_tracker(name: str, wanted: Collection[str]) -> bool:
    """Whether a variable (MLFLOW_TRACKING_URI, WANDB_PROJECT ...) is that of a tracker that was not asked for."""
    tracker = name.partition("_")[0].lower()
    return tracker in TRACKERS and tracker not in wanted


def is_runtimes_own(name: str) -> bool:
    """Whether the training runtime sets this variable (PET_NNODES, MASTER_ADDR, ...)."""
    return bool(_RUNTIME.fullmatch(name))


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds a secret (HF_TOKEN, WANDB_API_KEY, DB_PASS, DATABASE_URL, ...); rather one
    too many than one too few."""
    upper = name.upper()
    if _NO_SECRET.fullmatch(upper):
        return False
    # Also of camelCase.
    words = [word.upper() for word in _WORDS.findall(name)]
    return bool(_SECRET_NAME.fullmatch(upper)) or any(_SECRET_WORD.fullmatch(word) for word in words)


def holds_secret(name: str, value: str) -> bool:
    """Whether a variable is a secret by its name, by a password in a URL, or by the look of a token."""
    return is_secret(name) or bool(USER_INFO.search(value) or _TOKEN.search(value))


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """The values to blot out of any output, the longest first: those of secrets, the parts of one that is JSON (the
    content of a Docker config.json) or base64, and the passwords in URLs."""
    found = {text for name, value in environment.items() if is_secret(name) for text in _parts(value)}
    found |= {
        form
        for value in environment.values()
        for match in USER_INFO.finditer(value)
        for form in (match["password"], unquote(match["password"]))
    }
    return sorted((text for text in found if len(text) >= SHORTEST_SECRET), key=len, reverse=True)


def blot_out(text: str, secrets: Iterable[str]) -> str:
    """The text with stars in the place of each secret, and of what looks like a token."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _TOKEN.sub("***", text)


def _parts(value: str) -> Iterator[str]:
    """A secret's value without the newline that `echo` adds, its lines, and what is in it."""
    yield value.strip()
    yield from (line.strip() for line in value.splitlines())
    try:
        content = json.loads(value)
    except (ValueError, RecursionError):
        return
    if isinstance(content, (dict, list)):
        for leaf in _leaves(content):
            yield leaf
            # Docker's auth: user:password.
            try:
                decoded = base64.b64decode(leaf, validate=True).decode()
            except (binascii.Error, ValueError):
                continue
            if ":" in decoded:
                yield decoded
                yield decoded.partition(":")[2]


def _leaves(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, (dict, list)):
        for item in content.values() if isinstance(content, dict) else content:
            yield from _leaves(item)
