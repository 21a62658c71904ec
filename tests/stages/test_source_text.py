import ast
import io
import tokenize

from kfp_osft.stages.find_package import package_files
from kfp_osft.stages.package import FOLDER
from kfp_osft.stages.source_text import without_words


def test_a_module_keeps_its_code_and_its_lines_but_no_docstrings_and_comments():
    for name, source in package_files(FOLDER).items():
        text = without_words(source)
        assert text.count("\n") == source.count("\n")
        assert _code(text) == _code(source), name
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        assert not [token for token in tokens if token.type == tokenize.COMMENT]
        assert without_words(text) == text


def test_a_body_of_a_docstring_alone_stays_a_body():
    text = without_words('class Refused(Exception):\n    """Not allowed,\n    at all."""\n')
    assert text == 'class Refused(Exception):\n    ""\n\n'


def _code(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)
