"""Writes the YAML that people upload."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kfp import compiler

from kfp_osft import stages
from kfp_osft.pipelines.osft import PipelineSettings, build_osft_pipeline
from kfp_osft.stages.embedding import STAGE_IMAGE, variant


def compile_all(
    folder: Path,
    *,
    workspace_size: str = PipelineSettings.workspace_size,
    storage_class: str = PipelineSettings.storage_class,
    access_modes: Sequence[str] = PipelineSettings.access_modes,
    image: str = STAGE_IMAGE,
    secret_names: Mapping[str, str] | None = None,
    pip: bool = True,
) -> list[Path]:
    """Writes osft_pipeline.yaml and one YAML a stage into the folder; the same sources give the same bytes.

    Args:
        folder: made where it is missing.
        workspace_size, storage_class, access_modes: of the workspace volume, see PipelineSettings.
        image: of the stages.
        secret_names: names of Secrets that differ from the defaults, see PipelineSettings.
        pip: False for a cluster without a package index: the image must hold kfp, altair and vl-convert-python.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    components = {name: variant(getattr(stages, name), image, pip) for name in stages.__all__}
    settings = PipelineSettings(
        workspace_size=workspace_size,
        storage_class=storage_class,
        access_modes=tuple(access_modes),
        secret_names={**PipelineSettings().secret_names, **(secret_names or {})},
        components=components,
    )
    files = []
    for name, component in {"osft_pipeline": build_osft_pipeline(settings), **components}.items():
        file = folder / f"{name}.yaml"
        compiler.Compiler().compile(component, str(file))
        files.append(file)
    return files
