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


def test_the_first_problems_and_their_count_are_told_at_once():
    problems = Problems()
    problems.raise_if_any()
    for number in range(12):
        problems.add(f"row {number} is bad")

    with pytest.raises(InputError) as error:
        problems.raise_if_any()
    assert str(error.value).splitlines() == [
        *[f"row {number} is bad" for number in range(10)],
        "and 2 more rows like these",
    ]


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
