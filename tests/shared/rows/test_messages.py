import pytest

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.messages import Conversation, Places, Problems, Warnings, without_pretraining_role

USER = {"role": "user", "content": "Who?"}


def test_learnt_are_the_roles_that_are_named_after_what_is_given():
    messages = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]

    assert [
        Conversation("row 1", messages, frozenset({"assistant"}), given).is_learnt(index)
        for given in (0, 2)
        for index in range(4)
    ] == [False, True, False, True, False, False, False, True]


def test_the_pretraining_role_is_unrolled_into_the_turns_inside_it():
    system = {"role": "system", "content": "Be kind."}
    legacy = "<|user|>\nWho?\n<|assistant|>\nI. <|endoftext|>"
    granite = "<|start_of_role|>user<|end_of_role|>\nWho?<|start_of_role|>assistant<|end_of_role|>\nI.<|end_of_text|>"

    assert without_pretraining_role([system, {"role": "pretraining", "content": legacy}, USER]) == [
        system,
        {"role": "user", "content": "Who?\n"},
        {"role": "assistant", "content": "I. "},
        USER,
    ]
    assert without_pretraining_role([{"role": "pretraining", "content": granite}]) == [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "I."},
    ]
    assert without_pretraining_role([{"role": "pretraining", "content": "no turn"}]) == []


def lines_of(*told: str) -> list[str]:
    problems = Problems()
    problems.raise_if_any()
    for problem in told:
        problems.add(problem)
    with pytest.raises(InputError) as error:
        problems.raise_if_any()
    return str(error.value).splitlines()


def test_problems_that_repeat_are_one_line_with_their_count_and_first_places():
    assert lines_of("row 1: is bad", "row 2: is worse", "row 3: is bad") == [
        "row 1: is bad (2 such rows: row 1; row 3)",
        "row 2: is worse",
    ]


def test_problems_that_differ_in_numbers_are_of_one_kind():
    assert lines_of("row 1: messages[1] has 9 tokens", "row 2: messages[13] has 1,000 tokens") == [
        "row 1: messages[1] has 9 tokens (2 such rows: row 1; row 2)",
    ]


def test_of_many_kinds_of_problems_the_first_ten_are_told_and_the_count_of_the_others():
    lines = lines_of(*(f"row {number}: is bad in the way {'x' * number}" for number in range(1, 14)))

    assert len(lines) == 11 and lines[9] == f"row 10: is bad in the way {'x' * 10}"
    assert lines[10] == "and 3 rows with other problems"


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "row 0"),
        (3, "row 0; row 1; row 2"),
        (2000, "row 0; row 1; row 2; row 3; row 4; row 5; row 6; row 7; row 8; row 9; and 1,990 more"),
    ],
)
def test_places_are_the_first_ten_and_how_many_more(count: int, words: str):
    places = Places()
    for number in range(count):
        places.add(f"row {number}")

    assert str(places) == words and places.count == count


def test_a_warning_is_told_once_with_its_rows():
    warnings = Warnings()
    for number in (1, 2):
        warnings.add("is odd", f"row {number}")
    warnings.add("is odder", "row 2")

    assert warnings.lines() == ["2 rows: is odd (row 1; row 2)", "1 row: is odder (row 2)"]
