"""The text of a module as it travels: in an archive, in a stage's program, in a command."""

import ast
import io
import tokenize


def without_words(source: str) -> str:
    """A module without its docstrings and comments, line for line, so that tracebacks name the lines of the source."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            words = node.body[0]
            assert words.end_lineno is not None
            lines[words.lineno - 1 : words.end_lineno] = [""] * (words.end_lineno - words.lineno + 1)
            # A body needs a statement.
            if len(node.body) == 1:
                lines[words.lineno - 1] = " " * words.col_offset + '""'
    for token in tokenize.generate_tokens(io.StringIO("".join(f"{line}\n" for line in lines)).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    return "".join(f"{line}\n" for line in lines)
