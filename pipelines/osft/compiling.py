"""Writes the YAML files to upload, and the manifest that belongs to them."""

from pathlib import Path
from typing import Any

import yaml
from kfp import compiler

from kfp_osft import stages
from kfp_osft.pipelines.osft.manifest import evaluation_manifest, manifest
from kfp_osft.pipelines.osft.stage_pipelines import build_stage_pipeline
from kfp_osft.pipelines.osft.sub_pipeline import PipelineSettings, build_osft_pipeline
from kfp_osft.pipelines.osft.workflow_size import MOST, estimate
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.package import CORE, EVALUATION

#: What brings the stages' code to a project, by file name.
MANIFESTS = {CORE.manifest: manifest, EVALUATION.manifest: evaluation_manifest}


def compile_all(folder: Path, settings: PipelineSettings | None = None) -> list[Path]:
    """Writes osft_pipeline.yaml, one YAML per stage, and the MANIFESTS; the same sources give the same bytes.

    Args:
        folder: created if missing.
        settings: the defaults if not given.

    Returns:
        The files written.

    Raises:
        InputError: a pipeline would be too large for Argo.
    """
    settings = settings or PipelineSettings()
    folder.mkdir(parents=True, exist_ok=True)
    pipelines = {"osft_pipeline": build_osft_pipeline(settings)}
    pipelines |= {name: build_stage_pipeline(name, settings) for name in stages.__all__}
    files = [compile_pipeline(pipeline, folder / f"{name}.yaml") for name, pipeline in pipelines.items()]
    if not settings.stages.package:
        for name, text in MANIFESTS.items():
            (folder / name).write_text(text(), encoding="utf-8")
            files.append(folder / name)
    return files


def compile_pipeline(pipeline: Any, file: Path) -> Path:
    """Writes one pipeline's YAML; returns the file.

    Raises:
        InputError: it would be too large for Argo.
    """
    compiler.Compiler().compile(pipeline, str(file))
    size = estimate([document for document in yaml.safe_load_all(file.read_text(encoding="utf-8")) if document])
    if size.share > MOST:
        file.unlink()
        raise InputError(f"{file.name}: {size.description}")
    return file
