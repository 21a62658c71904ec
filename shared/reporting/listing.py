"""Many names in one line."""

from collections.abc import Sequence

_LONGEST = 200


def listed(names: Sequence[str], most: int) -> str:
    """The first `most` names, and how many more there are: "a, b, c and 4 more"."""
    more = len(names) - most
    shown = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]} ..." for name in names[:most]]
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")
