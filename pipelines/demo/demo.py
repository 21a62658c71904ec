"""kfp-osft demo: the whole fine-tuning on a built-in example."""

from pathlib import Path

from kfp_osft.pipelines.demo.answers import answers
from kfp_osft.pipelines.demo.example import (
    BASE_ABILITY_PROMPT,
    EXAMPLE_QUESTIONS,
    EXAMPLE_TRAINING,
    cache_dir,
    example_dataset,
    example_model,
)
from kfp_osft.pipelines.local.run import LocalRun, run_locally
from kfp_osft.pipelines.local.summary import check_local_run, show_run
from kfp_osft.shared.files.atomic import writable_folder
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.metrics import read_table


def run_demo(output_dir: Path, quiet: bool = False) -> LocalRun:
    """Fine-tunes SmolLM2-135M-Instruct on real questions and answers, and shows what it learnt and what it kept.

    Raises:
        InputError: the example cannot be fetched, or output_dir cannot be written.
        TrainingError: the training failed.
    """
    output_dir = writable_folder("--output-dir", str(output_dir))
    log(
        "OSFT of SmolLM2-135M-Instruct on questions and answers of chatterbot-corpus: about five minutes on two CPU "
        "cores"
    )
    model = example_model(cache_dir())
    dataset, held_out = example_dataset(cache_dir(), output_dir / "dataset.jsonl")
    run = run_locally(output_dir, str(dataset), "train", {"training_base_model": str(model), **EXAMPLE_TRAINING}, quiet)

    log("\nAsking both models ...")
    questions = [*EXAMPLE_QUESTIONS, BASE_ABILITY_PROMPT]
    before, after = answers(model, questions), answers(run.model, questions)
    log("\nWhat it learnt (questions of the training data)")
    for question, base, tuned in list(zip(questions, before, after, strict=True))[:-1]:
        log(f"  {question}\n    before  {_one_line(base)}\n    after   {_one_line(tuned)}")
    log("What it kept (not in the training data)")
    log(f"  {BASE_ABILITY_PROMPT}\n    before  {_one_line(before[-1])}\n    after   {_one_line(after[-1])}")
    show_run(run, read_table(run.steps), check_local_run(run, held_out))
    return run


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else f"{text[:157]}..."
