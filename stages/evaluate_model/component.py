"""Stage 7, optional: base and tuned model side by side."""

from typing import NamedTuple

from kfp import dsl

from kfp_osft.stages.component import stage


@stage(packages_to_install=["altair==6.3.0", "vl-convert-python==1.9.0.post1"])
def evaluate_model(
    pvc_path: str,
    output_report: dsl.Output[dsl.HTML],
    output_evaluation: dsl.Output[dsl.Metrics],
    checkpoint_dir: str = "",
    base_model: str = "",
    tuned_model: str = "",
    dataset_path: str = "",
    max_forgetting: float = 0.05,
    min_improvement: float = 0.0,
    gate: bool = False,
    earlier_tasks: str = "",
    benchmarks: str = "",
    benchmarks_path: str = "",
    evaluation_rows: int = 200,
    evaluation_answer_tokens: int = 32,
    eval_hub_url: str = "",
    export_uri: str = "",
) -> NamedTuple("Outputs", [("passed", bool), ("evaluation_path", str)]):
    """Measures what a model learnt and what it kept of its base model.

    Args:
        pvc_path: Workspace folder.
        checkpoint_dir: What launch_trainjob returned; the models and the held-out rows are those of the run. Or give
            the two models.
        base_model: Folder or Hugging Face id of the model before the training.
        tuned_model: Folder of the model after it.
        dataset_path: Held-out rows, a file or folder; those of the run unless given.
        max_forgetting: How much worse the model may be than its base on what is to be kept, relative; 0.05 is five
            percent.
        min_improvement: How much lower the loss on the held-out rows must be, relative.
        gate: Fail if the model does not pass.
        earlier_tasks: Held-out rows of earlier tasks, name=path,name=path.
        benchmarks: Tasks of lm-evaluation-harness, or benchmarks of the Eval Hub, separated by commas.
        benchmarks_path: Folder with further tasks of that.
        evaluation_rows: How many rows of each task are measured.
        evaluation_answer_tokens: Answers of at most so many tokens are compared with the model's own.
        eval_hub_url: An Eval Hub that runs the benchmarks, instead of lm-eval here.
        export_uri: Where to push the model afterwards: s3://bucket/prefix, hf://org/name or
            oci://registry/repository:tag. With gate, only if it passed. Empty for nowhere.
        output_report: The page: what was learnt, what was kept, examples.
        output_evaluation: The figures.

    Returns:
        passed: Whether the model is within max_forgetting and min_improvement.
        evaluation_path: The result as JSON.
    """
    given = locals()
    from kfp_osft.stages.evaluate_model.evaluation import evaluate_model

    return evaluate_model(**given)
