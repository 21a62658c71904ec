import pytest

from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.columns import check_columns, mapping_for, with_columns
from kfp_osft.shared.rows.files import Row
from kfp_osft.shared.rows.messages import Problems, Warnings
from kfp_osft.shared.rows.row_formats import FORMATS, conversations

CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I"}]


def mapped(values: dict, columns: str) -> dict:
    (row,) = with_columns([Row("rows.csv, row 1", values)], columns_of(columns))
    return row.values


def columns_of(text: str) -> dict[str, str]:
    return check_parameters({"dataset_columns": text}).data["columns"]


@pytest.mark.parametrize(
    ("values", "columns"),
    [
        ({"question": "Who?", "answer": "I"}, "user=question,assistant=answer"),
        ({"Question": "Who?", "Answer": "I"}, "user=Question,assistant=Answer"),
        ({"id": 3, "question": "Who?", "answer": "I", "context": "x"}, "user=question,assistant=answer,system=context"),
        (
            {"query": "Who?", "response": "I", "system_prompt": "x"},
            "user=query,assistant=response,system=system_prompt",
        ),
        ({"instruction": "Who?", "response": "I"}, "user=instruction,assistant=response"),
        ({"Prompt": "Who?", "Completion": "I"}, "user=Prompt,assistant=Completion"),
        ({"input": "Who?", "output": "I"}, "user=input,assistant=output"),
        ({"problem": "1+1", "solution": "2"}, "user=problem,assistant=solution"),
        ({"dialog": CHAT}, "messages=dialog"),
        ({"turns": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I"}]}, "conversations=turns"),
    ],
)
def test_the_mapping_that_is_offered_makes_a_conversation_of_the_row(values: dict, columns: str):
    assert mapping_for(values) == columns

    problems = Problems()
    (conversation,) = conversations([Row("row 1", mapped(values, columns))], False, problems, Warnings())
    assert [message["content"] for message in conversation.messages if message["role"] != "system"] in (
        ["Who?", "I"],
        ["1+1", "2"],
    )


@pytest.mark.parametrize(
    "values", [{}, {"text": "x"}, {"question": "x"}, {"question": 3, "answer": "x"}, {"answer": ["x"], "question": "x"}]
)
def test_where_the_names_suggest_nothing_no_mapping_is_offered(values: dict):
    assert mapping_for(values) is None


def test_only_the_columns_that_are_named_count_and_what_a_row_says_about_itself():
    values = {"question": "Who?", "answer": "I", "messages": CHAT, "label": False, "tools": [], "more": 1}

    assert mapped(values, "user=question,assistant=answer") == {
        "user": "Who?",
        "assistant": "I",
        "label": False,
        "tools": [],
    }


def test_a_column_may_have_a_comma_in_its_name():
    values = {"Who, and why?": "a", "answer": "I"}

    assert mapped(values, "user=Who\\, and why?,assistant=answer")["user"] == "a"


def test_a_column_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(InputError) as error:
        check_columns(
            Row("rows.csv, row 1", {"question": "Who?", "answer": "I"}), {"user": "query", "assistant": "answer"}
        )
    assert str(error.value) == (
        "rows.csv, row 1: has no 'query', which dataset_columns names; it has 'question', 'answer'"
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("question,answer", "dataset_columns: an item has no '='"),
        ("user=question", "dataset_columns=user=question does not make up a row format; give user and assistant, or "),
        ("question=user,answer=assistant", "dataset_columns: 'question' is not a field of rows; allowed: user, "),
        ("user=,assistant=answer", "dataset_columns: 'user' has no column"),
        (
            "messages=a,user=b,assistant=c",
            "dataset_columns=messages=a,user=b,assistant=c makes up more than one row format (user and assistant; "
            "messages); keep one",
        ),
    ],
)
def test_a_mapping_that_makes_no_row_is_refused(columns: str, message: str):
    with pytest.raises(InputError) as error:
        check_parameters({"dataset_columns": columns})
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_can_be_mapped_to(name: str):
    fields, _ = FORMATS[name]

    assert columns_of(",".join(f"{field}=my {field}" for field in fields)) == {field: f"my {field}" for field in fields}
