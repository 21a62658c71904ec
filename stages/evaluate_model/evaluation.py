"""evaluate_model: base and tuned model side by side, a report, and whether the tuned one passes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.artifacts import MetricsArtifact, OutputArtifact, place_file
from kfp_osft.shared.files.atomic import writable_folder, write_json
from kfp_osft.shared.knowledge.check import KnowledgeCheck, check_knowledge, limited_kinds, model_on_disk
from kfp_osft.shared.model.folder import public_name
from kfp_osft.shared.processes.pod import use_workspace
from kfp_osft.shared.push.destination import check_destination
from kfp_osft.shared.push.export_uri import push_to_export_uri
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.redaction import redacted
from kfp_osft.shared.rows.files import dataset_files
from kfp_osft.shared.tracking.mlflow_run import tracked_run
from kfp_osft.shared.training.run_file import MODELS, RUN_FILE, read_run, required_run
from kfp_osft.stages.evaluate_model import comparison
from kfp_osft.stages.evaluate_model.benchmarks import BenchmarkRun, check_benchmarks, lm_eval_runs
from kfp_osft.stages.evaluate_model.card_section import add_to_card
from kfp_osft.stages.evaluate_model.eval_hub import hub_benchmarks, hub_runs, tokenizer_of
from kfp_osft.stages.evaluate_model.hub_api import EvalHub
from kfp_osft.stages.evaluate_model.measuring import HeldOutRows, measure
from kfp_osft.stages.evaluate_model.options import TASK_NAME, Options, checked_options
from kfp_osft.stages.evaluate_model.report import write_report
from kfp_osft.stages.evaluate_model.result import Evaluation, Models

#: Folder of the workspace: an evaluation per model, and what was measured of each model.
EVALUATIONS, MEASUREMENTS = "evaluations", "measurements"
RESULT, REPORT = "evaluation.json", "evaluation.html"
_MATRICES, _SECONDS = 12, 600.0


class Evaluated(NamedTuple):
    """Outputs of the stage."""

    passed: bool
    evaluation_path: str


def evaluate_model(
    pvc_path: str,
    output_report: OutputArtifact,
    output_evaluation: MetricsArtifact,
    checkpoint_dir: str = "",
    base_model: str = "",
    tuned_model: str = "",
    dataset_path: str = "",
    export_uri: str = "",
    **evaluation: Any,
) -> Evaluated:
    """Evaluates the model of a run, or any two models, and publishes the tuned one where it is to be published.

    Args:
        pvc_path: the workspace; the result goes to pvc_path/evaluations/<tuned model>.
        output_report: gets the page.
        output_evaluation: gets the figures, and the place of a push as its metadata's export_uri.
        checkpoint_dir: of a run whose model was exported: base model, tuned model and held-out rows are the run's.
        base_model, tuned_model: folders or ids on the Hub, instead of the run's.
        dataset_path: held-out rows, instead of the run's.
        export_uri: where the tuned model is pushed, see push_model, once it has passed the gate; or empty.
        evaluation: EVALUATION_PARAMETERS by name.

    Raises:
        InputError: a parameter that is not allowed; models or rows that do not exist or do not belong together; a push
            that failed.
        TrainingError: the gate is on, and the model does not pass; the report is in the workspace nevertheless.
    """
    options = checked_options(evaluation)
    workspace = writable_folder("pvc_path", pvc_path)
    use_workspace(workspace)
    run = required_run(Path(checkpoint_dir)) if checkpoint_dir else {}
    if not checkpoint_dir and not (base_model and tuned_model):
        raise InputError("give checkpoint_dir of a run, or base_model and tuned_model")
    tuned = Path(tuned_model) if tuned_model else workspace / MODELS / Path(checkpoint_dir).absolute().name
    models = models_of(base_model or run["osft"]["model_path"], str(tuned), run, fetch=bool(base_model))
    rows = dataset_path or run.get("data", {}).get("validation_path") or ""
    folder = workspace / EVALUATIONS / models.tuned.resolve().name
    if export_uri := export_uri.strip():
        # Before what takes long.
        check_destination("export_uri", export_uri)
    result = evaluate(models, Path(rows) if rows else None, options, folder, workspace / MEASUREMENTS)
    for name, value in result.metrics().items():
        output_evaluation.log_metric(name, value)
    place_file(folder / REPORT, output_report)
    _track(result, folder / REPORT, run or None)
    check_gate(result, folder / REPORT, export_uri)
    if export_uri:
        output_evaluation.metadata["export_uri"] = push_to_export_uri(models.tuned, export_uri, run or None)
    return Evaluated(result.passed, str(folder / RESULT))


def _track(result: Evaluation, report: Path, run: Mapping[str, Any] | None) -> None:
    """Adds figures and page to the MLflow run of the training's pipeline run."""
    with tracked_run(run) as tracked:
        if tracked is not None:
            # As of the last step, like the figures of collect_metrics.
            exported = read_run(result.models.tuned) or {}
            tracked.log_figures(result.metrics(), exported.get("metrics", {}).get("steps", 0))
            tracked.log_file(report, REPORT)
            tracked.set_tags({"passed": str(result.passed).lower()})


def evaluate(models: Models, rows: Path | None, options: Options, folder: Path, cache: Path | None) -> Evaluation:
    """Measures both models, logs what was found, and writes evaluation.json, the page, and a section of the card.

    Args:
        models: to compare.
        rows: held out from the training, or None.
        options: what else is measured.
        folder: of the results.
        cache: folder of measurements, so that each model is measured once; None keeps none.

    Raises:
        InputError: see evaluate_model.
    """
    runs = check_possible(options, rows is not None, models.base_name)
    if rows:
        dataset_files(rows)
    held_out: list[HeldOutRows] = [options.held_out(TASK_NAME, rows)] if rows else []
    held_out += [options.held_out(name, path) for name, path in options.earlier_tasks.items()]
    before, after = (
        measure(
            model,
            held_out,
            benchmarks=runs(name),
            cache=cache,
            trust_remote_code=models.trust_remote_code,
            label=label,
        )
        for model, name, label in (
            (models.base, models.base_name, "Base model"),
            (models.tuned, models.tuned_name, "Tuned model"),
        )
    )
    figures = comparison.compared(before, after, TASK_NAME)
    for line in comparison.table(figures):
        log(line)
    weights = _weights(models)
    failures = comparison.failures(figures, options.limits)
    result = Evaluation(models, before, after, figures, weights, failures, options)
    if result.verdict:
        log(f"Weights: {result.verdict}")
    log("Passed" if result.passed else "\n".join(f"Not passed: {failure}" for failure in failures))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RESULT, result.to_dict())
    write_report(result, folder / REPORT)
    add_to_card(result)
    log(f"Report: {folder / REPORT}")
    return result


def check_possible(options: Options, has_rows: bool, base_name: str) -> Callable[[str], list[BenchmarkRun]]:
    """Sees that what an evaluation needs is there, before a model is loaded, or trained.

    Args:
        options: of the evaluation.
        has_rows: whether there are held-out rows of the task.
        base_name: of the base model: an id on the Hub, or what Models.base_name is.

    Returns:
        The benchmarks to run on the model of a name.

    Raises:
        InputError: rows or benchmarks that do not exist, no rows to see an improvement by, or an Eval Hub that does not
            answer.
    """
    if options.limits.min_improvement > 0 and not has_rows:
        raise InputError(
            f"min_improvement={options.limits.min_improvement:g} needs held-out rows: name them, or hold out a share "
            "of the training's with training_validation_split"
        )
    for path in options.earlier_tasks.values():
        dataset_files(path)
    if options.eval_hub_url:
        return _hub_runs(options, base_name)
    if options.benchmarks:
        check_benchmarks(list(options.benchmarks), options.benchmarks_path)
    return lambda _: lm_eval_runs(options.benchmarks, options.benchmarks_path)


def _hub_runs(options: Options, base_name: str) -> Callable[[str], list[BenchmarkRun]]:
    if not options.benchmarks:
        raise InputError(f"eval_hub_url={options.eval_hub_url} needs benchmarks: name those that it is to run")
    if options.benchmarks_path:
        raise InputError(
            f"benchmarks_path={options.benchmarks_path} is not allowed with eval_hub_url: an Eval Hub has its own tasks"
        )
    hub = EvalHub(options.eval_hub_url)
    found = hub_benchmarks(hub, options.benchmarks)
    tokenizer = tokenizer_of(base_name, found)
    return lambda name: hub_runs(hub, found, name, tokenizer)


def check_gate(result: Evaluation, report: Path, export_uri: str = "") -> None:
    """Raises TrainingError if the gate is on and the model does not pass; it says what is not published therefore."""
    if result.options.gate and not result.passed:
        unpublished = f"Nothing was published to {redacted(export_uri)}. " if export_uri else ""
        raise TrainingError(
            f"the model does not pass the gate: {'; '.join(result.failures)}. {unpublished}The report is {report}"
        )


def models_of(base: str, tuned: str, run: Mapping[str, Any] | None = None, fetch: bool = True) -> Models:
    """The two models, with what the tuned one's osft_run.json, or the run's, says of the training.

    Args:
        base, tuned: folders or ids on the Hub.
        run: what read_run gives for the run's checkpoints, where that is known.
        fetch: whether a base model that is not on this computer is fetched from the Hub.

    Raises:
        InputError: a model does not exist.
    """
    base_dir, tuned_dir = model_on_disk("base_model", base, fetch), model_on_disk("tuned_model", tuned)
    published = read_run(tuned_dir) or {}
    run = run or published
    osft = run.get("osft", {})
    return Models(
        base_dir,
        tuned_dir,
        public_name(run.get("about", {}).get("base_model") or base),
        published.get("model_name") or tuned_dir.resolve().name,
        osft.get("unfreeze_rank_ratio"),
        tuple(limited_kinds(run)),
        trust_remote_code=bool(osft.get("trust_remote_code")),
    )


def _weights(models: Models) -> KnowledgeCheck | None:
    if models.unfreeze_rank_ratio is None:
        log(f"The weights are not compared: no {RUN_FILE} says with which unfreeze_rank_ratio they were trained")
        return None
    return check_knowledge(
        models.base,
        models.tuned,
        models.unfreeze_rank_ratio,
        matrices=_MATRICES,
        seconds=_SECONDS,
        kinds=models.kinds,
        trust_remote_code=models.trust_remote_code,
        tell=log,
    )
