"""OSFT fine-tuning as a pipeline of its own, and as one call in another pipeline."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kfp_osft.pipelines.facade.train_model import train_model
    from kfp_osft.pipelines.osft.sub_pipeline import PipelineSettings, build_osft_pipeline, osft_pipeline
    from kfp_osft.pipelines.osft.wiring import EvaluationPod
    from kfp_osft.pipelines.sequence.pipeline import osft_sequence
    from kfp_osft.stages.component import StageSettings, stage_settings

__all__ = [
    "train_model",
    "osft_pipeline",
    "build_osft_pipeline",
    "osft_sequence",
    "EvaluationPod",
    "PipelineSettings",
    "StageSettings",
    "stage_settings",
]

_MODULES = {
    "train_model": "kfp_osft.pipelines.facade.train_model",
    "osft_pipeline": "kfp_osft.pipelines.osft.sub_pipeline",
    "build_osft_pipeline": "kfp_osft.pipelines.osft.sub_pipeline",
    "osft_sequence": "kfp_osft.pipelines.sequence.pipeline",
    "EvaluationPod": "kfp_osft.pipelines.osft.wiring",
    "PipelineSettings": "kfp_osft.pipelines.osft.sub_pipeline",
    "StageSettings": "kfp_osft.stages.component",
    "stage_settings": "kfp_osft.stages.component",
}


# Lazy: importing KFP and building the pipeline takes half a second, which `kfp-osft --help` does not need.
def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
