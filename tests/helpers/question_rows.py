"""Rows for the tests of sources: each is known by its question."""

import json
from pathlib import Path


def jsonl(*questions: str) -> bytes:
    """JSON Lines with a conversation for each question."""
    return "".join(
        json.dumps(
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "Größe"}]},
            ensure_ascii=False,
        )
        + "\n"
        for question in questions
    ).encode()


def questions(path: str | Path) -> list[str]:
    """The questions in a JSON Lines file."""
    return [json.loads(line)["messages"][0]["content"] for line in Path(path).read_text().splitlines()]


def put(path: Path, content: bytes) -> Path:
    """Writes a file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def files_in(folder: Path) -> set[Path]:
    """The files below a folder, without what resolve keeps for itself: counts of rows, and locks."""
    return {file for file in folder.rglob("*") if file.is_file() and file.parent.name != ".rows"}
