"""Writes the YAML that people upload."""

from pathlib import Path

from kfp import compiler

from kfp_osft import stages
from kfp_osft.pipelines.osft import osft_pipeline


def compile_all(folder: Path) -> list[Path]:
    """Writes osft_pipeline.yaml and one YAML a stage into the folder; the same sources give the same bytes.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    components = {"osft_pipeline": osft_pipeline, **{name: getattr(stages, name) for name in stages.__all__}}
    files = []
    for name, component in components.items():
        file = folder / f"{name}.yaml"
        compiler.Compiler().compile(component, str(file))
        files.append(file)
    return files
