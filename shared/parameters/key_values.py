"""The one parser of KEY=VAL,KEY=VAL lists."""

from kfp_osft.shared.reporting.errors import InputError


def parse_key_values(parameter: str, text: str) -> dict[str, str]:
    """Parses "KEY=VAL,KEY=VAL"; a comma inside a value is written as a backslash and a comma.

    Args:
        parameter: name of the parameter the list came from, for the error.
        text: the list; empty or blank gives {}. Blanks around keys and values are dropped. A value may be
            empty and may hold further "=".

    Raises:
        InputError: an item without "=", without a key, or a key given twice.
    """
    pairs: dict[str, str] = {}
    if not text.strip():
        return pairs
    for item in text.replace("\\,", "\0").split(","):
        item = item.replace("\0", ",").strip()
        key, equals, value = item.partition("=")
        key = key.strip()
        # The value is not repeated in the message: such lists may hold what should not be in a log.
        if not equals:
            raise InputError(f"{parameter}: an item has no '=' ({_place(pairs)}); expected KEY=VAL,KEY=VAL")
        if not key:
            raise InputError(f"{parameter}: an item has no key before '=' ({_place(pairs)}); expected KEY=VAL,KEY=VAL")
        if key in pairs:
            raise InputError(f"{parameter}: the key '{key}' is given twice")
        pairs[key] = value.strip()
    return pairs


def as_number_or_bool(text: str) -> int | float | bool | str:
    """Gives "2" as 2, "0.5" or "1e-6" as a float, "true" and "false" as booleans, anything else as it is.

    torch's schedulers take such values as they are: "2" and 2 differ.
    """
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    for convert in (int, float):
        try:
            number = convert(text)
        except ValueError:
            continue
        # int() and float() also take "1_000", "nan" and "inf", which nobody means here.
        if "_" in text or number != number or number in (float("inf"), float("-inf")):
            break
        return number
    return text


def _place(pairs: dict[str, str]) -> str:
    return f"after '{list(pairs)[-1]}'" if pairs else "the first one"
