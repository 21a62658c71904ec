"""Runs osft_pipeline on this computer."""

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from kfp_osft.pipelines.local.run_log import RunLog, without_colors
from kfp_osft.pipelines.osft.sub_pipeline import OsftPipeline, PipelineSettings, build_osft_pipeline, osft_pipeline
from kfp_osft.pipelines.osft.wiring import EvaluationPod
from kfp_osft.shared.files.atomic import writable_folder
from kfp_osft.shared.files.leftovers import mark_of_this_process, remove_leftovers
from kfp_osft.shared.files.ownership import OWNER_FILE, Owned, owned
from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.shared.rows.files import dataset_files
from kfp_osft.stages.artifact_versions import VERSION_KEY
from kfp_osft.stages.evaluate_model.evaluation import REPORT
from kfp_osft.stages.evaluate_model.options import checked_options
from kfp_osft.stages.render_loss_chart.rendering import CHART_PICTURE

_LOG = "run.log"
_ARTIFACTS = "artifacts"
_TEMPORARY = "kfp-osft-"


class LocalRun(NamedTuple):
    """Results of a run.

    Attributes:
        model: folder of the model.
        metrics: figures by name.
        loss_chart: HTML file; a static picture is beside it, as .png.
        steps: table of the optimizer steps (JSON Lines).
        log: full log of the run.
        report: page of the evaluation, where there was one.
    """

    model: Path
    metrics: dict[str, float]
    loss_chart: Path
    steps: Path
    log: Path
    report: Path | None = None


def run_locally(
    output_dir: Path,
    dataset: str,
    dataset_split: str,
    training: Mapping[str, Any],
    quiet: bool = False,
    validation_uri: str = "",
    validation_uri_split: str = "validation",
    evaluation: Mapping[str, Any] | None = None,
) -> LocalRun:
    """Runs the stages with kfp.local in this Python environment; results of an earlier run are reused.

    Args:
        output_dir: the workspace, for results, checkpoints and logs.
        dataset: path or dataset_uri.
        dataset_split: split of the dataset, as in resolve_dataset.
        training: training parameters by name; the others have the sub-pipeline's defaults.
        quiet: shows only when stages begin and end, warnings and errors.
        validation_uri: path or dataset_uri of rows to hold out, or empty.
        validation_uri_split: split of validation_uri.
        evaluation: parameters of evaluate_model by name; None leaves that stage out.

    Raises:
        InputError: bad parameters, found here or by a stage; another run in output_dir that has not ended.
        TrainingError: a stage failed for another reason.
    """
    check_parameters(training)
    if evaluation is not None:
        checked_options(evaluation)
    output_dir = writable_folder("--output-dir", str(output_dir)).resolve()
    dataset, validation_uri = (absolute_path(rows) for rows in (dataset, validation_uri))
    training = {name: value for name, value in training.items() if value is not None}

    prepare_environment()
    with _alone_in(output_dir):
        outputs, log = _run(
            output_dir,
            {
                "pvc_path": str(output_dir),
                "dataset_uri": dataset,
                "dataset_split": dataset_split,
                "validation_uri": validation_uri,
                "validation_uri_split": validation_uri_split,
                **training,
                **(evaluation or {}),
            },
            quiet,
            osft_pipeline if evaluation is None else build_osft_pipeline(PipelineSettings(evaluation=EvaluationPod())),
        )
        metrics = {name: value for name, value in outputs["output_metrics"].metadata.items() if name != VERSION_KEY}
        # KFP names an artifact's file without an extension; a browser wants one.
        chart = output_dir / "loss_chart.html"
        chart.write_bytes(Path(outputs["output_loss_chart"].path).read_bytes())
        checkpoint_dir = Path(outputs["output_model"].metadata["checkpoint_dir"])
        chart.with_suffix(".png").write_bytes((checkpoint_dir / CHART_PICTURE).read_bytes())
        report = None
        if evaluation is not None:
            report = output_dir / REPORT
            report.write_bytes(Path(outputs["output_report"].path).read_bytes())
        model = Path(outputs["output_model"].metadata["pvc_model_dir"])
        return LocalRun(model, metrics, chart, checkpoint_dir / "metrics.jsonl", log, report)


@contextlib.contextmanager
def _alone_in(output_dir: Path) -> Iterator[None]:
    """A run in the same folder would mix its log, chart and final_model with this one's."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(owned(output_dir / OWNER_FILE, "kfp-osft run", wait=False))
        except Owned as owner:
            raise InputError(
                f"--output-dir={output_dir} is in use by {owner}; give another folder, or wait until it has ended"
            ) from None
        yield


def prepare_environment() -> None:
    """Sets what the stages, child processes of this one, inherit. Unbuffered: lines appear as they are printed."""
    os.environ |= {
        "OSFT_LAUNCHER": "local",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def absolute_path(rows: str) -> str:
    """The absolute path of a file or folder with data on this computer; another dataset_uri unchanged."""
    if not rows or not Path(rows).expanduser().exists():
        return rows
    path = Path(rows).expanduser().resolve()
    dataset_files(path)
    return str(path)


def _run(
    output_dir: Path, arguments: Mapping[str, Any], quiet: bool, pipeline: OsftPipeline
) -> tuple[dict[str, Any], Path]:
    from kfp import local

    # use_venv=False: the stages use this environment's torch and training-hub instead of installing their own.
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(output_dir / _ARTIFACTS))
    run_log = RunLog(output_dir / _LOG, sys.stdout, quiet, pipeline is not osft_pipeline)
    try:
        with _temporary_folder(), warnings.catch_warnings(), contextlib.redirect_stdout(run_log):
            # Warnings that resources, display names and the image apply only to clusters.
            warnings.filterwarnings("ignore", module=r"kfp\.local")
            return pipeline(**arguments).outputs, run_log.path
    except KeyboardInterrupt:
        _wait_for_the_stage()
        raise
    except RuntimeError as error:
        unexplained = f"{without_colors(str(error)).rstrip('.')}; the full log is {run_log.path}"
        message = "\n".join(run_log.stage_errors) or unexplained
        raise (InputError if run_log.is_input_error else TrainingError)(message) from error
    finally:
        run_log.close()


def _wait_for_the_stage() -> None:
    """Waits until the stage, which Ctrl-C has reached too, has ended, as kfp.local does not: a training saves its
    state."""
    if living := psutil.Process().children():
        message = "Interrupted: a training that is under way saves its state now (Ctrl-C again: end at once)"
        print(f"\n{message}", file=sys.stderr)
        psutil.wait_procs(living)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[None]:
    """A folder for temporary files that is deleted after the run: KFP leaves each stage's program behind. Those of
    killed runs go too."""
    remove_leftovers(Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"))
    earlier = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix=f"{_TEMPORARY}{mark_of_this_process()}") as folder:
        os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            os.environ.pop("TMPDIR")
            if earlier is not None:
                os.environ["TMPDIR"] = earlier
