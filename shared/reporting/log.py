"""Lines for the person who reads a stage's log."""


def log(message: str) -> None:
    """Prints one line at once: a stage's stdout is a pipe, which Python would hold back in blocks."""
    print(message, flush=True)
