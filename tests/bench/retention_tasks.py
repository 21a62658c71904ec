"""Tasks of the retention benchmark: questions of reasoning-gym (Apache-2.0) whose answers are a word or a number."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

# All tasks share it, so that what is forgotten is the task and not the form of its answer.
_SYSTEM = "Give only the answer."
_TEST_SEED, _DEVELOPMENT_SEED = 1_000, 2_000


class Task(NamedTuple):
    """A dataset of reasoning-gym and its settings."""

    name: str
    settings: Mapping[str, Any]


# Chosen because the demo's model learns each of them in 20 steps, and none of them before.
TASKS = (
    Task("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
    Task("needle_haystack", {"min_num_statements": 3, "max_num_statements": 4}),
    Task("family_relationships", {}),
)


class TaskRows(NamedTuple):
    """Files of one task's rows, no question of which is in two of them."""

    train: Path
    development: Path
    test: Path


def write_rows(task: Task, folder: Path, seed: int, train: int, test: int) -> TaskRows:
    """Writes the rows as messages, JSON Lines.

    Args:
        seed: of the training rows; test and development rows are the same for all seeds.
        train, test: number of rows; there are half as many development rows as test rows.
    """
    seen: set[str] = set()
    files = TaskRows(*(folder / f"{task.name}_{part}.jsonl" for part in (f"train_{seed}", "development", "test")))
    folder.mkdir(parents=True, exist_ok=True)
    # The test rows first: what is left out for being there twice is left out of the training rows.
    for file, count, at in (
        (files.test, test, _TEST_SEED),
        (files.development, test // 2, _DEVELOPMENT_SEED),
        (files.train, train, seed),
    ):
        rows = _rows(task, count, at, seen)
        file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows), encoding="utf-8")
    return files


def _rows(task: Task, count: int, seed: int, seen: set[str]) -> list[list[dict[str, str]]]:
    import reasoning_gym

    found = []
    for entry in reasoning_gym.create_dataset(task.name, size=count * 10, seed=seed, **task.settings):
        if len(found) == count:
            break
        question, answer = entry["question"].strip(), entry["answer"].strip()
        if question in seen:
            continue
        seen.add(question)
        found.append(
            [
                {"role": "system", "content": _SYSTEM},
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        )
    if len(found) < count:
        raise ValueError(f"{task.name} has {len(found)} different questions of {count}")
    return found
