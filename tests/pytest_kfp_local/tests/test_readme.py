"""All that the README shows runs."""

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_passes(run_tests, example):
    run_tests(example, header="")


def test_the_message_of_the_readme_is_the_plugins(run_tests):
    (message,) = re.findall(r"^E  (.*)$", README, re.MULTILINE)
    (training,) = [example for example in EXAMPLES if "def train(" in example]
    result = run_tests(
        training
        + """

@dsl.pipeline
def inner():
    train(rows=0)


@dsl.pipeline
def outer():
    inner()


def test_it(kfp_local):
    kfp_local.run(outer)
""",
        header="",
        failed=1,
    )
    result.stdout.fnmatch_lines([f"E *{message}"])
