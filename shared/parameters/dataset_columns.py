"""The mapping of a table's columns to the fields of rows, as dataset_columns gives it."""

from kfp_osft.shared.parameters.key_values import parse_key_values
from kfp_osft.shared.reporting.errors import InputError

#: A raw document, which is no conversation.
DOCUMENT = "document"
# What makes a row (kfp_osft.shared.rows.row_formats reads it), and what a row may have besides.
_FORMATS_OF_COLUMNS = (
    ("user", "assistant"),
    ("messages",),
    ("conversations",),
    ("prompt", "completion"),
    ("instruction", "output"),
    (DOCUMENT,),
)
_FIELDS_OF_COLUMNS = (
    *(field for fields in _FORMATS_OF_COLUMNS for field in fields),
    *("system", "reasoning", "input", "history", "tools", "unmask", "label"),
)


def parse_columns(name: str, value: str) -> dict[str, str] | None:
    """Parses "field=column,field=column"; a comma in a column's name is written as a backslash and a comma.

    Args:
        name: of the parameter, for the error.
        value: the mapping; empty gives None.

    Raises:
        InputError: a field that no row has, a field without a column, fields that make no row, or two kinds of row.
    """
    columns = parse_key_values(name, value)
    for field, column in columns.items():
        if field not in _FIELDS_OF_COLUMNS:
            raise InputError(f"{name}: '{field}' is not a field of rows; allowed: {', '.join(_FIELDS_OF_COLUMNS)}")
        if not column:
            raise InputError(f"{name}: '{field}' has no column")
    found = [" and ".join(fields) for fields in _FORMATS_OF_COLUMNS if columns.keys() >= {*fields}]
    if columns and not found:
        choices = ", or ".join(" and ".join(fields) for fields in _FORMATS_OF_COLUMNS)
        raise InputError(f"{name}={value} does not make up a row format; give {choices}")
    if len(found) > 1:
        raise InputError(f"{name}={value} makes up more than one row format ({'; '.join(found)}); keep one")
    return columns or None
