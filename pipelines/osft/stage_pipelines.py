"""Each stage as a pipeline of its own, to run it alone on a cluster in an existing workspace."""

import inspect
from collections.abc import Mapping
from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl import structures

from kfp_osft import stages
from kfp_osft.pipelines.facade.osft_task import stages_of_env
from kfp_osft.pipelines.osft.sub_pipeline import PipelineSettings
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.stages.component import stage_settings
from kfp_osft.stages.training_parameters import one_line_each

#: Where the claim is mounted.
_MOUNT_PATH = "/workspace"
_CLAIM = inspect.Parameter("claim", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str)
_CLAIM_DOC = "claim: Name of the PersistentVolumeClaim with the workspace; it is mounted at /workspace."
# KFP fills in the names of the run and the task.
_OF_THE_RUN: Mapping[str, Any] = {
    "run_name": dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
    "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    "task_name": dsl.PIPELINE_TASK_NAME_PLACEHOLDER,
}
_PIPELINE_DEFAULTS = {parameter.name: (parameter.type, parameter.pipeline_default) for parameter in ALL_PARAMETERS}


def build_stage_pipeline(name: str, settings: PipelineSettings) -> Any:
    """Builds the pipeline of one stage. Its parameters are those of the stage, without artifacts, and the claim.

    Args:
        name: one of kfp_osft.stages.__all__.
        settings: the image, the names of Secrets and the defaults are used, the workspace is not.
    """
    component = getattr(stages, name)
    own = inspect.signature(component.python_func).parameters
    parameters = [
        _CLAIM,
        *(_as_pipeline_parameter(own[name], settings.defaults) for name in own if _is_in_form(component, name)),
    ]
    # Python wants parameters without a default first.
    parameters.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)

    def pipeline(*args: Any, **kwargs: Any) -> None:
        arguments = inspect.Signature(parameters).bind(*args, **kwargs).arguments
        claim = arguments.pop("claim")
        placeholders = {key: value for key, value in _OF_THE_RUN.items() if key in own}
        with stage_settings(settings.stages):
            task = component(**arguments, **placeholders)
        task.set_caching_options(False)
        kubernetes.mount_pvc(task, claim, _MOUNT_PATH)
        settings.give_secrets(task, lambda key: name in stages_of_env(key))

    pipeline.__signature__ = inspect.Signature(parameters)
    documentation = component.python_func.__doc__.replace("Args:\n", f"Args:\n        {_CLAIM_DOC}\n")
    pipeline.__doc__ = one_line_each(documentation)
    return dsl.pipeline(name=f"osft-{name.replace('_', '-')}", display_name=f"OSFT: {name.replace('_', ' ')}")(pipeline)


def _is_in_form(component: Any, name: str) -> bool:
    spec = (component.component_spec.inputs or {}).get(name)
    return isinstance(spec, structures.InputSpec) and _is_value(spec) and name not in _OF_THE_RUN


def _is_value(spec: structures.InputSpec) -> bool:
    return spec.type in ("String", "Integer", "Float", "Boolean")


def _as_pipeline_parameter(parameter: inspect.Parameter, defaults: Mapping[str, Any]) -> inspect.Parameter:
    if parameter.name == "pvc_path":
        return parameter.replace(default=_MOUNT_PATH)
    if parameter.name in defaults:
        type_ = _PIPELINE_DEFAULTS.get(parameter.name, (parameter.annotation, None))[0]
        return parameter.replace(annotation=type_, default=defaults[parameter.name])
    if parameter.name == "dataset_uri":
        # No upstream task can replace it here.
        return parameter.replace(default=inspect.Parameter.empty)
    type_, default = _PIPELINE_DEFAULTS.get(parameter.name, (parameter.annotation, parameter.default))
    return parameter.replace(annotation=type_, default=default)
