"""Measures one model: its loss on texts and held-out rows, its greedy answers, and benchmarks.

Two measurements of the same things make an evaluation (comparison.py); those of the models of a sequence of tasks make
its matrix. Each is kept in a file, so that what has been measured once is not measured again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.manifests import file_digest, fingerprint, read_manifest, sampled_digest, write_manifest
from kfp_osft.shared.model.loss import loaded_model, mean, sample_losses, text_sample
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.rows.chat_tokens import Sample
from kfp_osft.shared.rows.files import dataset_files
from kfp_osft.shared.training.versions import installed_versions
from kfp_osft.stages.evaluate_model.benchmarks import Benchmark, BenchmarkRun
from kfp_osft.stages.evaluate_model.general_texts import general_texts
from kfp_osft.stages.evaluate_model.greedy_answers import greedy_answers
from kfp_osft.stages.evaluate_model.held_out_rows import held_out_samples, last_answer

_FORMAT = 1
_LIBRARIES = ("torch", "transformers")
# An answer may be longer than the expected one by this, which shows that the model does not stop.
_RUN_ON = 4
_EXAMPLE_TOKENS = 64
_PROMPT_CHARACTERS = 600


@dataclass(frozen=True)
class HeldOutRows:
    """Rows that were not trained on.

    Attributes:
        name: of the task, for people.
        path: file or folder, as held_out_samples takes it.
        rows: the most that are measured.
        answer_tokens: the longest last turn, in tokens, that is compared with the model's own answer.
        examples: how many answers are kept as text.
    """

    name: str
    path: Path
    rows: int = 200
    answer_tokens: int = 32
    examples: int = 5


@dataclass(frozen=True)
class Measure:
    """What one model makes of texts or rows.

    Attributes:
        loss: mean negative log likelihood in nats per token.
        tokens, rows: that it was measured on.
        exact_match: share of the short answers that are, as text without surrounding whitespace, what the model answers
            greedily, 0 to 1; None without short answers.
        short_answers: how many those are.
        examples: prompt, expected and answer, as text.
    """

    loss: float
    tokens: int
    rows: int
    exact_match: float | None = None
    short_answers: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class ModelMeasures:
    """All that was measured of one model, by name."""

    texts: dict[str, Measure] = field(default_factory=dict)
    rows: dict[str, Measure] = field(default_factory=dict)
    benchmarks: dict[str, Benchmark] = field(default_factory=dict)

    @property
    def general_loss(self) -> float | None:
        """Mean loss over all tokens of the general texts, in nats; None if they were not measured."""
        tokens = sum(text.tokens for text in self.texts.values())
        return sum(text.loss * text.tokens for text in self.texts.values()) / tokens if tokens else None


def measure(
    model_dir: Path,
    rows: Sequence[HeldOutRows] = (),
    *,
    texts: Mapping[str, Sequence[str]] | None = None,
    benchmarks: Sequence[BenchmarkRun] = (),
    cache: Path | None = None,
    trust_remote_code: bool = False,
    label: str = "",
) -> ModelMeasures:
    """Measures a model on general texts, on held-out rows, and by benchmarks.

    Args:
        model_dir: folder in transformers' format, with safetensors.
        rows: of one task each, with different names.
        texts: general texts by kind; those of general_texts unless given.
        benchmarks: see lm_eval_runs and hub_runs.
        cache: folder of earlier measurements; what is found there for the same model is not measured again.
        trust_remote_code: whether code in the model's folder may run.
        label: what the log calls the model.

    Raises:
        InputError: rows that cannot be read; a benchmark that cannot be run.
    """
    if not any(model_dir.glob("*.safetensors")):
        # Nothing tells such a model from another.
        cache = None
    measures = ModelMeasures()
    by_kind = general_texts() if texts is None else texts
    jobs = [
        *(
            _Job(measures.texts, kind, Measure, passages, partial(_texts, passages))
            for kind, passages in by_kind.items()
        ),
        *(_Job(measures.rows, each.name, Measure, _made_from_rows(each), partial(_rows, each)) for each in rows),
        *(_Job(measures.benchmarks, each.name, Benchmark, each.made_from, each.score) for each in benchmarks),
    ]
    model_made_from = _made_from(model_dir) if cache else None
    missing = []
    for job in jobs:
        key = [_FORMAT, model_made_from, job.made_from]
        file = cache / f"{fingerprint(key)[:16]}.json" if cache else None
        known = read_manifest(file, key) if file else None
        # None keeps the order for what is measured below.
        job.found[job.name] = job.kind(**known["result"]) if known else None
        if not known:
            missing.append((job, key, file))
    if not missing:
        log(f"{label or model_dir}: measured before")
        return measures
    log(f"{label or model_dir}: measuring {', '.join(job.name for job, *_ in missing)}")
    with loaded_model(model_dir, trust_remote_code) as (model, tokenizer):
        for job, key, file in missing:
            result = job.found[job.name] = job.run(model, tokenizer)
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_manifest(file, key, (), result=asdict(result))
    return measures


class _Job(NamedTuple):
    """Something to measure: where the result goes, its type, what it depends on beside the model, and how."""

    found: dict[str, Any]
    name: str
    kind: type
    made_from: Any
    run: Callable[[Any, Any], Any]


def _made_from_rows(rows: HeldOutRows) -> list[Any]:
    return [[file_digest(file) for file in dataset_files(rows.path)], rows.rows, rows.answer_tokens, rows.examples]


def _texts(texts: Sequence[str], model: Any, tokenizer: Any) -> Measure:
    losses = sample_losses(model, [text_sample(tokenizer, text) for text in texts])
    return Measure(mean(losses), sum(loss.tokens for loss in losses), len(texts))


def _rows(rows: HeldOutRows, model: Any, tokenizer: Any) -> Measure:
    samples = held_out_samples(rows.path, tokenizer, rows.rows)
    losses = sample_losses(model, samples)
    # A document is learnt from its first token on: nothing asks for it.
    asked = [sample for sample in samples if last_answer(sample)[0]]
    short = [sample for sample in asked if len(last_answer(sample)[1]) <= rows.answer_tokens]
    answered = _answers(model, tokenizer, short, lambda expected: len(expected) + _RUN_ON)
    matches = sum(example["answer"] == example["expected"] for example in answered)
    examples = answered[: rows.examples]
    if len(examples) < rows.examples:
        long = [sample for sample in asked if len(last_answer(sample)[1]) > rows.answer_tokens]
        examples += _answers(model, tokenizer, long[: rows.examples - len(examples)], lambda _: _EXAMPLE_TOKENS)
    return Measure(
        mean(losses),
        sum(loss.tokens for loss in losses),
        len(samples),
        matches / len(short) if short else None,
        len(short),
        examples,
    )


def _answers(
    model: Any, tokenizer: Any, samples: Sequence[Sample], length: Callable[[list[int]], int]
) -> list[dict[str, str]]:
    """Prompt, expected and answer of each sample."""
    if not samples:
        return []
    prompts, expected = zip(*map(last_answer, samples), strict=True)
    answers = greedy_answers(model, tokenizer, prompts, [length(tokens) for tokens in expected])

    def text(tokens: list[int]) -> str:
        return tokenizer.decode(tokens, skip_special_tokens=True).strip()

    return [
        {"prompt": text(prompt)[-_PROMPT_CHARACTERS:], "expected": text(wanted), "answer": text(answer)}
        for prompt, wanted, answer in zip(prompts, expected, answers, strict=True)
    ]


def _made_from(model_dir: Path) -> dict[str, Any]:
    """What makes the model what it is: its weights by samples of them, its small files, and the libraries."""
    small = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.model")
    return {
        "weights": {file.name: sampled_digest(file) for file in sorted(model_dir.glob("*.safetensors"))},
        "files": {name: file_digest(model_dir / name) for name in small if (model_dir / name).is_file()},
        "libraries": installed_versions(_LIBRARIES),
    }
