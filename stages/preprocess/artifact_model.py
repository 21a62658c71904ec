"""A base model that comes as a KFP artifact, from an earlier task of the pipeline."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from kfp_osft.shared.files.atomic import replacing_folder
from kfp_osft.shared.files.downloads import check_room
from kfp_osft.shared.files.manifests import fingerprint, read_manifest, sampled_digest, write_manifest
from kfp_osft.shared.model.folder import BASE_MODELS
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.run_file import MODELS, RUN_FILE
from kfp_osft.stages.preprocess.needed_files import needed_files

#: What OSFT components write into their model's metadata, in the order in which it is looked at.
_METADATA_KEYS = ("pvc_model_dir", "artifact_path")
_MANIFEST = ".manifest.json"


class ModelArtifact(Protocol):
    """What is used of a KFP Model artifact."""

    @property
    def path(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


def base_of_artifact(artifact: ModelArtifact, workspace: Path, trust_remote_code: bool) -> str:
    """The artifact's model as training_base_model takes it.

    The training pods do not see this pod's disk. So it is the same model where an earlier training left it, in this
    workspace or where the metadata says, or a copy in the workspace, made once for the same content; or, where the
    artifact has no data, what its metadata names.

    Args:
        trust_remote_code: whether Python code beside the model is copied too.

    Raises:
        InputError: the artifact has neither a model nor metadata that says where it is; no room.
    """
    model = Path(artifact.path)
    if not (model / "config.json").is_file():
        for key in _METADATA_KEYS:
            value = artifact.metadata.get(key)
            if isinstance(value, str) and value.strip():
                log(f"The model artifact has no data of its own; its metadata gives {key}={value}")
                return value
        raise InputError(
            f"training_base_model: the model artifact has no model at {model} (no config.json), and no metadata "
            f"{' or '.join(_METADATA_KEYS)}"
        )
    names = [str(file.relative_to(model)) for file in model.rglob("*") if file.is_file()]
    needed = sorted(name for some in needed_files(names, trust_remote_code) for name in some)
    made_from = _made_from(model, needed)
    trained = [file.parent for file in (workspace / MODELS).glob(f"*/{RUN_FILE}")]
    if published := artifact.metadata.get("pvc_model_dir"):
        # final_model is a link, and another run's later.
        trained.append(Path(str(published)).resolve())
    for folder in trained:
        if _made_from(folder, needed) == made_from:
            log(f"The model artifact is the model in {folder}, which is used")
            return str(folder)
    folder = workspace / BASE_MODELS / fingerprint(made_from)[:12] / str(artifact.metadata.get("model_name") or "model")
    if not read_manifest(folder / _MANIFEST, made_from):
        check_room(workspace, sum(size for size, _ in made_from.values()), "training_base_model, a model artifact")
        log(f"Copying the model artifact to {folder}")
        with replacing_folder(folder) as unfinished:
            for name in needed:
                (unfinished / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(model / name, unfinished / name)
            write_manifest(unfinished / _MANIFEST, made_from, unfinished)
    return str(folder)


def _made_from(model: Path, names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Sizes and digests of the files, of large ones by samples; {} where one is missing."""
    files = {name: model / name for name in names}
    if not all(file.is_file() for file in files.values()):
        return {}
    return {name: (file.stat().st_size, sampled_digest(file)) for name, file in files.items()}
