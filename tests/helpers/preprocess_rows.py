"""Rows for the tests of preprocess, and the samples it wrote."""

import json
from pathlib import Path

from kfp_osft.stages.preprocess.training_data import Preprocessed

QUESTION = {"role": "user", "content": "What is the capital of Austria?"}

ANSWER = {"role": "assistant", "content": "The capital of Austria is Vienna. It is the seat of the government."}

IDS = list(range(5, 35))


def samples_of(result: Preprocessed) -> list[dict]:
    return [json.loads(line) for line in Path(result.data_path).read_text().splitlines()]


def tokens_of(result: Preprocessed) -> list[list[int]]:
    return [sample["input_ids"] for sample in samples_of(result)]


def answer_of(words: int) -> dict:
    return {"role": "assistant", "content": " ".join(["Vienna"] * words)}


def tokens(**changes: object) -> dict:
    return {"input_ids": IDS, "labels": [-100] * 10 + IDS[10:], **changes}
