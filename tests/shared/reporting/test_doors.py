"""Each place that prints or writes a file is a door through which a secret could leave the process.

A new one fails here until it has its line, which says what keeps secrets in. What a line promises is tried with
canaries: test_redaction.py for what is printed, tests/pipelines/local/test_canaries.py for all that a run leaves,
tests/stages/launch_trainjob/kubernetes/test_canaries.py for what goes to the cluster.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import kfp_osft

_ROOT = Path(next(iter(kfp_osft.__path__)))
_CALLS = {
    *(
        "print",
        "write",
        "pwrite",
        "write_text",
        "write_bytes",
        "dump",
        "copyfile",
        "copy2",
        "copytree",
        "link",
        "symlink_to",
    ),
    *(
        "log_params",
        "log_param",
        "log_metrics",
        "log_artifact",
        "set_tag",
        "set_tags",
        "log_batch",
        "add_scalar",
        "post",
    ),
    *("log_metric", "place_file", "replacing_file", "replacing_folder", "write_json", "write_manifest"),
}

PRINTED = "the stage's and the command's streams are guarded"
CANARY = "the canary run looks into it"
TRAINING = "the training prints and writes it in a process of its own, whose output is shown() by who follows it"
CLUSTER = "what is secret goes to the cluster as a Secret"
OTHERS = "bytes of others or of this package, as they are"
NAMES = "figures, the names of models and rows, and texts of rows and answers"
NOBODY = "in memory, or gone with the process"
DOORS = {
    "pipelines/cli.py": PRINTED,
    "pipelines/command/compile_.py": PRINTED,
    "pipelines/command/config_file.py": "refuses what redacted() would change; test_config_file.py",
    "pipelines/command/image.py": PRINTED,
    "pipelines/command/manifest.py": PRINTED,
    "pipelines/command/runtime.py": PRINTED,
    "pipelines/compare/page.py": "figures, and parameters of runs, which hold no secret",
    "pipelines/command/push.py": PRINTED,
    "pipelines/demo/example_dataset.py": OTHERS,
    "pipelines/demo/example_model.py": OTHERS,
    "pipelines/demo/wheels.py": OTHERS,
    "pipelines/local/measured_speed.py": "figures, to the process that asked",
    "pipelines/local/progress.py": CANARY,
    "pipelines/local/run.py": CANARY,
    "pipelines/local/run_log.py": CANARY,
    "pipelines/local/summary.py": CANARY,
    "pipelines/osft/compiling.py": OTHERS,
    "pipelines/sequence/card.py": NAMES,
    "pipelines/sequence/page.py": NAMES,
    "pipelines/sequence/sequence.py": NAMES,
    "pipelines/use/chat.py": PRINTED,
    "shared/files/artifacts.py": CANARY,
    "shared/files/atomic.py": CANARY,
    "shared/files/downloads.py": CANARY,
    "shared/files/manifests.py": CANARY,
    "shared/files/ownership.py": "host, process and time",
    "shared/network/certificates.py": OTHERS,
    "shared/oci/credentials.py": NOBODY,
    "shared/push/modelcar.py": "the model's files, as they are, and names of images",
    "shared/push/export_uri.py": "the place of the model, which is shown()",
    "shared/reporting/log.py": PRINTED,
    "shared/reporting/redaction.py": PRINTED,
    "shared/reporting/stage.py": PRINTED,
    "shared/rows/columnar.py": NOBODY,
    "shared/tracking/mlflow_run.py": "parameters and tags are shown()",
    "shared/training/metrics.py": CANARY,
    "stages/artifact_versions.py": CANARY,
    "stages/collect_metrics/collection.py": CANARY,
    "stages/evaluate_model/card_section.py": NAMES,
    "stages/evaluate_model/eval_hub.py": "names of models and benchmarks; the token is in a header of hub_api",
    "stages/evaluate_model/evaluation.py": NAMES,
    "stages/evaluate_model/measuring.py": NAMES,
    "stages/evaluate_model/model_server.py": "figures, and answers to the benchmark's prompts",
    "stages/evaluate_model/report.py": NAMES,
    "stages/export_model/artifact.py": CANARY,
    "stages/export_model/export.py": CANARY,
    "stages/export_model/model_files.py": CANARY,
    "stages/export_model/placing.py": CANARY,
    "stages/export_model/published_run.py": CANARY,
    "stages/export_model/weights.py": CANARY,
    "stages/find_package.py": OTHERS,
    "stages/launch_trainjob/attempts.py": CANARY,
    "stages/launch_trainjob/kubernetes/connection.py": NOBODY,
    "stages/launch_trainjob/kubernetes/engine.py": "the log of the training's pod, a shown() line at a time",
    "stages/launch_trainjob/kubernetes/job.py": CLUSTER,
    "stages/launch_trainjob/kubernetes/monitoring/monitor.py": "the same log",
    "stages/launch_trainjob/kubernetes/trainjob.py": CLUSTER,
    "stages/launch_trainjob/launch.py": CANARY,
    "stages/launch_trainjob/local_engine.py": CANARY,
    "stages/launch_trainjob/train_attendance.py": TRAINING,
    "stages/launch_trainjob/train_decomposition.py": TRAINING,
    "stages/launch_trainjob/train_end.py": TRAINING,
    "stages/launch_trainjob/train_on_cpu.py": TRAINING,
    "stages/launch_trainjob/train_progress.py": TRAINING,
    "stages/launch_trainjob/train_projection.py": TRAINING,
    "stages/launch_trainjob/train_result.py": TRAINING,
    "stages/launch_trainjob/train_resume.py": TRAINING,
    "stages/launch_trainjob/train_script.py": TRAINING,
    "stages/launch_trainjob/train_trackers.py": TRAINING,
    "stages/launch_trainjob/train_validation.py": TRAINING,
    "stages/preprocess/artifact_model.py": OTHERS,
    "stages/preprocess/hub_model.py": "a commit's digest",
    "stages/preprocess/oci/layers.py": OTHERS,
    "stages/preprocess/oci/model.py": "reference and digest of the model; test_model.py looks into it",
    "stages/preprocess/osft_coverage.py": "figures, to the process that asked",
    "stages/preprocess/report_page.py": "shown()",
    "stages/preprocess/runs_data.py": CANARY,
    "stages/preprocess/samples.py": CANARY,
    "stages/preprocess/training_data.py": CANARY,
    "stages/render_loss_chart/chart.py": CANARY,
    "stages/resolve_dataset/http.py": OTHERS,
    "stages/resolve_dataset/hub.py": "rows, and where from without what is secret in it; test_hub.py looks into it",
    "stages/resolve_dataset/source.py": CANARY,
    "stages/resolve_dataset/splits.py": OTHERS,
}


def doors() -> Iterator[str]:
    """The files of this package with a call that prints, writes or sets an artifact's metadata."""
    for room in ("pipelines", "shared", "stages"):
        for file in sorted((_ROOT / room).rglob("*.py")):
            if any(map(_is_door, ast.walk(ast.parse(file.read_text(encoding="utf-8"))))):
                yield file.relative_to(_ROOT).as_posix()


def _is_door(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        return any(
            isinstance(target, ast.Subscript) and _name(target.value).endswith("metadata") for target in node.targets
        )
    if not isinstance(node, ast.Call):
        return False
    name = _name(node.func)
    if name == "open":
        return any(_is_writing_mode(each) for each in [*node.args[:2], *(given.value for given in node.keywords)])
    of_metadata = isinstance(node.func, ast.Attribute) and _name(node.func.value) == "metadata"
    return name in _CALLS or (name == "update" and of_metadata)


def _is_writing_mode(node: ast.expr) -> bool:
    mode = node.value if isinstance(node, ast.Constant) else None
    return isinstance(mode, str) and 0 < len(mode) < 4 and set(mode) <= set("rwaxbt+") and bool(set(mode) & set("wax+"))


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def test_each_door_is_known_with_what_keeps_secrets_in():
    assert set(doors()) == set(DOORS)
