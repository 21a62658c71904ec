"""A number of bytes as a person reads it."""

_UNITS = ("KiB", "MiB", "GiB", "TiB")


def size_text(size: float) -> str:
    """In the largest unit that fits: "0 bytes", "1023 bytes", "1.5 GiB"."""
    if size < 1024:
        return f"{size:.0f} bytes"
    for unit in _UNITS:
        size /= 1024
        if size < 1024 or unit == _UNITS[-1]:
            break
    return f"{size:.1f} {unit}"
