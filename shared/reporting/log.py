"""Lines for the person who reads a stage's log."""


def log(message: str) -> None:
    """Prints one line at once: a stage's stdout is a pipe, which Python would hold back in blocks."""
    # A carriage return would let a text of others begin a line as if it were ours.
    print(message.replace("\r\n", "\n").replace("\r", " "), flush=True)
