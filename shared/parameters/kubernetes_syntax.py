"""What Kubernetes accepts as quantities, labels, annotations, names of environment variables and of images.

Source: apimachinery's resource.Quantity and util/validation; for images, github.com/distribution/reference.
"""

import re

_QUANTITY = re.compile(r"\+?(\d+(\.\d*)?|\.\d+)(m|[kMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_LABEL_OR_SUBDOMAIN_LIMIT = 253
_IMAGE = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9.-]*(:\d+)?/)?"
    r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
    r"(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_SUFFIXES = {"": 1, "m": 1e-3, **{suffix: 1000**power for power, suffix in enumerate("kMGTPE", start=1)}}
_SUFFIXES |= {f"{suffix}i": 1024**power for power, suffix in enumerate("KMGTPE", start=1)}
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_positive_quantity(text: str) -> bool:
    """True for "8", "500m", "32Gi"; False for "", "0", "-1", "32 GB"."""
    match = _QUANTITY.fullmatch(text)
    return bool(match) and float(match.group(1)) > 0


def is_quantity(text: str) -> bool:
    """True for "8", "500m", "32Gi" and "0"."""
    return bool(_QUANTITY.fullmatch(text))


def quantity_value(text: str) -> float:
    """The number that a quantity stands for: bytes of "32Gi", cores of "500m"."""
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a quantity")
    number, suffix = match.group(1), match.group(3) or ""
    return float(number) * _SUFFIXES[suffix] if suffix in _SUFFIXES else float(number + suffix)


def is_image(text: str) -> bool:
    """True for "python:3.12", "registry.example:5000/team/image@sha256:..."; False for "", "my image:1"."""
    return bool(_IMAGE.fullmatch(text))


def is_name(text: str) -> bool:
    """True for a DNS subdomain, which names of objects are."""
    return len(text) <= _DNS_LABEL_OR_SUBDOMAIN_LIMIT and bool(_DNS_SUBDOMAIN.fullmatch(text))


def is_label_key(text: str) -> bool:
    """True for a qualified name: at most 63 characters, with or without a DNS prefix and "/"."""
    prefix, slash, name = text.rpartition("/")
    if slash and not is_name(prefix):
        return False
    return bool(_NAME.fullmatch(name))


def is_label_value(text: str) -> bool:
    """True for at most 63 letters, digits, '-', '_', '.', or nothing."""
    return text == "" or bool(_NAME.fullmatch(text))


def is_env_name(text: str) -> bool:
    """True for a name that a shell takes as well (C identifier)."""
    return bool(_ENV_NAME.fullmatch(text))
