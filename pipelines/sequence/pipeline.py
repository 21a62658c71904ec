"""osft_sequence: tasks one after the other as one pipeline, each from the model before it, each evaluated."""

from collections.abc import Mapping, Sequence
from typing import Any

from kfp import dsl
from kfp.dsl.constants import WORKSPACE_MOUNT_PATH

from kfp_osft.pipelines.facade.osft_task import OsftTask
from kfp_osft.pipelines.osft.sub_pipeline import PipelineSettings
from kfp_osft.pipelines.osft.wiring import Evaluation, EvaluationPod, RowSources, StageTasks, add_stages
from kfp_osft.pipelines.sequence.plan import Plan, Task, plan_of
from kfp_osft.shared.training.run_file import FINAL_MODEL
from kfp_osft.stages.component import stage_settings


def osft_sequence(
    tasks: Sequence[Mapping[str, Any]],
    base_model: str,
    *,
    evaluation: Mapping[str, Any] | None = None,
    settings: PipelineSettings | None = None,
    **content: Any,
) -> Any:
    """A pipeline that learns the tasks in their order.

    Args:
        tasks: each with name and dataset, and what else a task of tasks.yaml may have.
        base_model: of the first task.
        evaluation: EVALUATION_PARAMETERS by name for the evaluation after each task; with gate, a task that makes the
            model forget too much ends the sequence.
        settings: workspace, Secrets and image; its `evaluation` is the pod of evaluate_model, its `defaults` hold where
            the tasks and `evaluation` say nothing else, and the pipeline's name is its `name` with -sequence.
        content: schedule, unfreeze_rank_ratio, factor, planned_tasks and training, as in tasks.yaml.

    Raises:
        InputError: what is not allowed, one per line.
    """
    settings = settings or PipelineSettings()
    content = {"base_model": base_model, "tasks": [dict(task) for task in tasks], **content}
    return build_sequence_pipeline(plan_of(content, defaults=settings.training_defaults), settings, evaluation or {})


def build_sequence_pipeline(plan: Plan, settings: PipelineSettings, evaluation: Mapping[str, Any]) -> Any:
    """Builds the pipeline of a plan.

    Each task has its own folder in the workspace, pvc_path/<name>, with its final_model and its tokenized rows. The
    rows of all tasks are fetched at once; the training of each waits for the evaluation of the one before, which
    measures the held-out rows of all tasks so far.
    """
    pod = settings.evaluation or EvaluationPod()
    name = "osft-sequence" if settings.name == PipelineSettings.name else f"{settings.name}-sequence"
    evaluation = {**settings.evaluation_defaults, **evaluation}

    @dsl.pipeline(
        name=name,
        display_name=f"OSFT of {len(plan.tasks)} tasks",
        pipeline_config=dsl.PipelineConfig(workspace=settings.workspace()),
    )
    def sequence(
        base_model: str = plan.base_model, pvc_path: str = settings.defaults.get("pvc_path", WORKSPACE_MOUNT_PATH)
    ) -> dsl.Model:
        """Fine-tunes a model with OSFT on tasks one after the other, each from the model before it.

        Args:
            base_model: Of the first task: a folder, or an id on the Hugging Face Hub.
            pvc_path: Workspace folder; each task has a folder in it.
        """
        model: Any = base_model
        before: StageTasks | None = None
        for number, task in enumerate(plan.tasks):
            earlier = {name: _held_out(pvc_path, name) for name in (each.name for each in plan.tasks[:number])}
            with stage_settings(settings.stages):
                measured = Evaluation({**evaluation, **_known(earlier)}, pod)
                check = settings.defaults.get("check_matrices", 0)
                tasks = _add(task, f"{pvc_path}/{task.name}", model, check, measured)
            if before is not None:
                tasks.preprocess.after(before.last)
            settings.give_secrets(OsftTask(tasks).set_display_name(task.name))
            model, before = f"{pvc_path}/{task.name}/{FINAL_MODEL}", tasks
        assert before is not None
        output: Any = before.outputs()["output_model"]
        return output

    return sequence


def _add(task: Task, folder: str, base_model: Any, check_matrices: int, evaluation: Evaluation) -> StageTasks:
    rows = RowSources(task.dataset, task.dataset_split, None, task.validation, task.validation_split)
    training = {
        **task.training,
        "training_base_model": base_model,
        "training_unfreeze_rank_ratio": task.unfreeze_rank_ratio,
        "training_data_output_dir": f"{folder}/data",
    }
    return add_stages(folder, rows, training, check_matrices, evaluation)


def _held_out(pvc_path: Any, name: str) -> str:
    # Where preprocess writes the rows of a training that has this data folder.
    return f"{pvc_path}/{name}/data/validation.jsonl"


def _known(earlier: Mapping[str, str]) -> dict[str, str]:
    return {"earlier_tasks": ",".join(f"{name}={path}" for name, path in earlier.items())} if earlier else {}
