"""Names of models that others may read: a path names a person's home, or a place that goes with the run."""

from pathlib import PurePath


def is_path(text: str) -> bool:
    """Whether the text is a path, and not an id on the Hub or an address."""
    return PurePath(text).is_absolute() or text.startswith(("./", "../", "~"))


def public_name(model: str) -> str:
    """A model as others may read it: of a folder, its name alone."""
    return PurePath(model).name if is_path(model) else model
