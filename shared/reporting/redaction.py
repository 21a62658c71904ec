"""URIs as they may be shown: what may be secret in them is taken out."""

import re

#: Stands for what was taken out.
SECRET = "***"
_URI = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?")
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")


def redacted(uri: str) -> str:
    """The URI without user name and password, the values of its query (signatures, tokens), and its fragment.

    All values: which parameter is a secret differs from server to server. A path, and a Hugging Face id with its
    @revision, stay as they are.
    """
    parts = _URI.match(uri)
    if not parts or parts["scheme"] == "hf://":
        return uri
    authority, path = parts["authority"], parts["path"]
    if "@" in authority:
        authority = f"{SECRET}@{authority.rpartition('@')[2]}"
    elif "@" in path and not _HOST_AND_PORT.fullmatch(authority):
        # A password with a slash in it.
        authority, path = f"{SECRET}@", path.rpartition("@")[2]
    query = parts["query"]
    if query is not None:
        query = "?" + "&".join(
            f"{name}={SECRET}" if equals else SECRET
            for name, equals, _ in (pair.partition("=") for pair in query.split("&"))
        )
    return f"{parts['scheme']}{authority}{path}{query or ''}"
