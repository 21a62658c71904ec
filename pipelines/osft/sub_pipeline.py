"""osft_pipeline: OSFT fine-tuning as one pipeline, to upload, run locally or nest in others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl import graph_component
from kfp.dsl.constants import WORKSPACE_MOUNT_PATH

from kfp_osft import __version__
from kfp_osft.pipelines.facade.osft_task import OsftTask
from kfp_osft.pipelines.facade.signature import pipeline_parameters, with_defaults
from kfp_osft.pipelines.osft.form import check_names
from kfp_osft.pipelines.osft.own_folder import check_own_folder
from kfp_osft.pipelines.osft.secrets import SECRET_KEYS, SECRET_NAMES
from kfp_osft.pipelines.osft.wiring import (
    EvaluatedOutputs,
    Evaluation,
    EvaluationPod,
    OsftOutputs,
    RowSources,
    add_stages,
    check_constants,
    check_evaluation_constants,
    is_artifact,
)
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.parameters.evaluation_parameters import EVALUATION_PARAMETERS
from kfp_osft.shared.parameters.kubernetes_syntax import is_name
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.component import StageSettings, stage_settings
from kfp_osft.stages.package import CORE, EVALUATION

_TRAINING_NAMES = {parameter.name for parameter in ALL_PARAMETERS}
_EVALUATION_NAMES = {parameter.name for parameter in EVALUATION_PARAMETERS}


@dataclass(frozen=True)
class PipelineSettings:
    """Settings that are fixed when the pipeline is compiled.

    Attributes:
        workspace_size: size of the run's workspace volume, a Kubernetes quantity.
        storage_class: its storage class; empty means the cluster's default, which KFP 2.15 and 2.16 do not fill in.
        access_modes: its access modes; ReadWriteMany, because training pods on several nodes share the volume.
        secret_names: purpose of a Secret (a key of SECRET_KEYS) -> its name in the project; SECRET_NAMES has those of
            purposes that are left out.
        stages: image of the stages, and where they get their code.
        evaluation: the pod of evaluate_model; None leaves that stage, and its parameters, out of the pipeline.
        name: of the pipeline; the runs' Workflows are named after it.
        defaults: of parameters in the form, by name, in place of the contract's.

    Raises:
        InputError: a name that is not one of a Kubernetes object, a purpose of no Secret, a default of no parameter or
            that is not allowed.
    """

    workspace_size: str = "100Gi"
    storage_class: str = ""
    access_modes: tuple[str, ...] = ("ReadWriteMany",)
    secret_names: Mapping[str, str] = field(default_factory=dict)
    stages: StageSettings = field(default_factory=StageSettings)
    name: str = "osft-pipeline"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    evaluation: EvaluationPod | None = None

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise InputError(f"the pipeline's name '{self.name}' is not a valid name of a Kubernetes object")
        for purpose in self.secret_names:
            if purpose not in SECRET_KEYS:
                raise InputError(f"secret_names has {purpose!r}; allowed: {', '.join(SECRET_KEYS)}")
        check_names(self.defaults)
        check_constants(self.training_defaults)
        check_evaluation_constants(self.evaluation_defaults)

    @property
    def training_defaults(self) -> dict[str, Any]:
        """The defaults of training parameters."""
        return {name: value for name, value in self.defaults.items() if name in _TRAINING_NAMES}

    @property
    def evaluation_defaults(self) -> dict[str, Any]:
        """The defaults of an evaluation's parameters."""
        return {name: value for name, value in self.defaults.items() if name in _EVALUATION_NAMES}

    def give_secrets(self, task: Any, wanted: Callable[[str], bool] = lambda key: True) -> None:
        """Gives the Secrets' keys to a task, as environment variables.

        Args:
            task: a PipelineTask, or an OsftTask, which passes each on to the stages that need it.
            wanted: says of a key whether the task gets it.
        """
        names = {**SECRET_NAMES, **self.secret_names}
        for purpose, keys in SECRET_KEYS.items():
            if given := {key: key for key in keys if wanted(key)}:
                kubernetes.use_secret_as_env(task, names[purpose], given, optional=True)

    def workspace(self) -> dsl.WorkspaceConfig:
        """The workspace as KFP's PipelineConfig takes it."""
        patch: dict[str, Any] = {"accessModes": list(self.access_modes)}
        if self.storage_class:
            patch["storageClassName"] = self.storage_class
        return dsl.WorkspaceConfig(size=self.workspace_size, kubernetes=dsl.KubernetesWorkspaceConfig(patch))


def _with_source(settings: PipelineSettings) -> Callable[[Callable], Callable]:
    """Puts the version, and where the stages' code comes from, into a docstring."""
    if settings.stages.package:
        code = f"pip install {settings.stages.package}"
    elif settings.evaluation:
        code = f"ConfigMaps {CORE.config_map} and {EVALUATION.config_map}, or the image"
    else:
        code = f"ConfigMap {CORE.config_map}, or the image"

    def decorate(function: Callable) -> Callable:
        function.__doc__ = (function.__doc__ or "").replace("VERSION", __version__).replace("SOURCE", code)
        return function

    return decorate


class OsftPipeline(graph_component.GraphComponent):
    """The pipeline as a component. Training parameters that are constants, and pvc_path, are checked at once."""

    def __init__(self, pipeline: Any) -> None:
        vars(self).update(vars(pipeline))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_artifact(kwargs.get("training_base_model")):
            raise InputError(
                "training_base_model is an artifact, which KFP does not pass on into a nested pipeline; use train_model"
            )
        check_constants({name: value for name, value in kwargs.items() if name in _TRAINING_NAMES})
        check_evaluation_constants({name: value for name, value in kwargs.items() if name in _EVALUATION_NAMES})
        task = super().__call__(*args, **kwargs)
        check_own_folder(kwargs.get("pvc_path", WORKSPACE_MOUNT_PATH), [task])
        return task


def build_osft_pipeline(settings: PipelineSettings) -> Any:
    """Builds the pipeline; osft_pipeline below is the one with default settings."""
    with_evaluation = settings.evaluation is not None
    outputs_type = EvaluatedOutputs if with_evaluation else OsftOutputs
    more = EVALUATION_PARAMETERS if with_evaluation else ()

    @dsl.pipeline(
        name=settings.name,
        display_name="OSFT fine-tuning" if settings.name == PipelineSettings.name else settings.name,
        pipeline_config=dsl.PipelineConfig(workspace=settings.workspace()),
    )
    @with_defaults(settings.defaults)
    @_with_source(settings)
    @partial(pipeline_parameters, more=more)
    def osft_pipeline(
        dataset_uri: str,
        pvc_path: str = WORKSPACE_MOUNT_PATH,
        dataset_split: str = "train",
        check_matrices: int = 0,
        validation_uri: str = "",
        validation_uri_split: str = "validation",
        **declared: Any,
    ) -> outputs_type:
        """Fine-tunes a language model with OSFT (Orthogonal Subspace Fine-Tuning, arXiv:2504.07097).

        It teaches the model something new and changes its weights only in the directions that matter least to what it
        knows. Compiled with kfp-osft VERSION; code of the stages: SOURCE.

        Args:
            dataset_uri: [Required] A path, pvc://path (below pvc_path), s3://bucket/key or a prefix, an http(s) URL of
                one file, org/name or hf://org/name[@revision][/config] of a Hugging Face dataset. JSON Lines, JSON,
                Parquet, CSV or Arrow, also .gz or .zst, a file or a folder. Rows of messages (chat), conversations
                (ShareGPT), prompt and completion, or instruction and output (Alpaca).
            pvc_path: [Cluster] Workspace folder. Unless given, the run's own volume, which KFP removes when the run has
                succeeded: what stays are the outputs. On a mounted claim of one's own final_model and checkpoints stay
                too.
            dataset_split: [Rows] Split of a Hugging Face dataset, of a DatasetDict that was saved to disk, or of a
                folder with files named train, validation, test.
            check_matrices: [Results] Of so many weight matrices, measure after the training which share of their change
                lies in the directions to keep; 0 measures none.
            validation_uri: [Rows] Rows to hold out from the training, as dataset_uri takes it; empty for none.
            validation_uri_split: [Rows] Split of validation_uri.
            training parameters:

        Returns:
            output_model: The model as transformers loads it.
            output_metrics: Loss, steps, tokens, speed.
            output_loss_chart: The loss chart.
            Output: "training completed".
        """
        training = {name: value for name, value in declared.items() if name in _TRAINING_NAMES}
        evaluation = {name: value for name, value in declared.items() if name in _EVALUATION_NAMES}
        with stage_settings(settings.stages):
            rows = RowSources(
                dataset_uri=dataset_uri,
                dataset_split=dataset_split,
                validation_uri=validation_uri,
                validation_uri_split=validation_uri_split,
            )
            tasks = add_stages(
                pvc_path,
                rows,
                training,
                check_matrices,
                Evaluation(evaluation, settings.evaluation) if settings.evaluation else None,
            )
        settings.give_secrets(OsftTask(tasks))
        outputs: dict[str, Any] = dict(tasks.outputs())
        return outputs_type(**outputs)

    return OsftPipeline(osft_pipeline)


osft_pipeline = build_osft_pipeline(PipelineSettings())
