"""kfp-osft demo: the whole fine-tuning on a built-in example, which needs no account."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp_osft.pipelines.demo.example_dataset import example_dataset
from kfp_osft.pipelines.demo.example_model import example_model
from kfp_osft.pipelines.demo.wheels import cache_dir
from kfp_osft.pipelines.use.answers import answers
from kfp_osft.shared.files.atomic import writable_folder
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.metrics import read_table

if TYPE_CHECKING:
    from kfp_osft.pipelines.local.run import LocalRun

#: Questions of the training data that the base model answers differently.
EXAMPLE_QUESTIONS = (
    "I forgot my password.",
    "My internet is not working.",
    "My system is overheating.",
)
#: Not in the training data; the base model answers it, at greater length.
BASE_ABILITY_PROMPT = "What is photosynthesis?"

#: Training parameters of the example: 24 steps, four minutes on two CPU cores. Measured loss, nats per token: help desk
#: 4.07 -> 0.34, GENERAL_TEXT 3.30 -> 3.29. A learning rate of 1.5e-4 learns the help desk better (0.16) but forgets
#: (3.41).
EXAMPLE_TRAINING: dict[str, Any] = {
    "training_num_epochs": 3,
    "training_effective_batch_size": 16,
    "training_learning_rate": 1e-4,
    "training_max_seq_len": 256,
    "training_max_tokens_per_gpu": 2048,
    "training_unfreeze_rank_ratio": 0.25,
    "training_seed": 42,
}


def run_demo(output_dir: Path, quiet: bool = False) -> "LocalRun":
    """Fine-tunes SmolLM2-135M-Instruct on real questions and answers, and shows what it learned and what it kept.

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
    # Late: importing KFP takes seconds, which the answer that there is no network need not wait for.
    from kfp_osft.pipelines.local.run import run_locally
    from kfp_osft.pipelines.local.summary import check_local_run, show_run

    run = run_locally(output_dir, str(dataset), "train", {"training_base_model": str(model), **EXAMPLE_TRAINING}, quiet)

    log("\nAsking both models ...")
    questions = [*EXAMPLE_QUESTIONS, BASE_ABILITY_PROMPT]
    before, after = answers(model, questions), answers(run.model, questions)
    log("\nWhat it learned (questions of the training data)")
    for question, base, tuned in list(zip(questions, before, after, strict=True))[:-1]:
        log(f"  {question}\n    before  {_one_line(base)}\n    after   {_one_line(tuned)}")
    log("What it kept (not in the training data)")
    log(f"  {BASE_ABILITY_PROMPT}\n    before  {_one_line(before[-1])}\n    after   {_one_line(after[-1])}")
    show_run(run, read_table(run.steps), check_local_run(run, held_out))
    return run


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else f"{text[:157]}..."
