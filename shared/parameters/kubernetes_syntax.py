"""What Kubernetes accepts as quantities, labels, annotations and environment variable names.

Source: apimachinery's resource.Quantity and util/validation.
"""

import re

_QUANTITY = re.compile(r"\+?(\d+(\.\d*)?|\.\d+)(m|[kMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_LABEL_OR_SUBDOMAIN_LIMIT = 253
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_positive_quantity(text: str) -> bool:
    """True for "8", "500m", "32Gi"; False for "", "0", "-1", "32 GB"."""
    match = _QUANTITY.fullmatch(text)
    return bool(match) and float(match.group(1)) > 0


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
