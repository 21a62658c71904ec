"""Makes a KFP component of a stage's function: code that finds kfp_osft, then the function, which imports from it."""

import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from kfp import __version__ as kfp_version
from kfp import dsl
from kfp.dsl import pipeline_context
from kfp.dsl.python_component import PythonComponent

import kfp_osft
from kfp_osft.shared.network import certificates
from kfp_osft.shared.parameters.kubernetes_syntax import is_image
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages import find_package
from kfp_osft.stages.mount import ARCHIVE, MOUNT_PATH
from kfp_osft.stages.package import FOLDER, archive_of, package_digest
from kfp_osft.stages.source_text import without_words
from kfp_osft.stages.training_parameters import documented, with_training_parameters

#: The image that the present OSFT component runs in: training-hub with a CPU torch, Python 3.12.
STAGE_IMAGE = "quay.io/opendatahub/odh-th06-cpu-torch291-py312:odh-3.4"
#: Kubernetes' imagePullPolicy.
PULL_POLICIES = ("Always", "IfNotPresent", "Never")

_HEAD = """{source}

find_package("{version}", "{digest}", "{archive}", "{archive_digest}", "{config_map}", "{manifest}")
from kfp_osft.shared.reporting.stage import begin_stage

begin_stage()
"""
_TAIL = """
from kfp_osft.stages.artifact_versions import with_version

{function} = with_version({function})
"""
# KFP's executor reads the function's signature, and in the source that is only **training.
_TAIL_OF_TRAINING = """
from kfp_osft.stages.training_parameters import with_training_parameters

{function} = with_training_parameters({function})
"""


@dataclass(frozen=True)
class StageSettings:
    """Settings of the stages that are fixed when a pipeline is compiled.

    Attributes:
        image: container image.
        package: requirement that pip installs in each stage to bring kfp_osft, such as "kfp-osft==0.1.0" or a wheel's
            URL; when empty, the code comes from the image or from the ConfigMaps that `kfp-osft manifest` prints.
        pip: False for a cluster without a package index: the image must contain what the stages need.
        pull_policy: imagePullPolicy of the image, one of PULL_POLICIES; empty leaves it to Kubernetes.
        certificates: name of a ConfigMap with certificate authorities that the stages trust in addition to the public
            ones, by default the one that OpenShift AI creates in each project; it may be missing. Empty mounts none.

    Raises:
        InputError: image is not the name of a container image, or pull_policy is not one.
    """

    image: str = STAGE_IMAGE
    package: str = ""
    pip: bool = True
    pull_policy: str = ""
    certificates: str = certificates.CONFIG_MAP

    def __post_init__(self) -> None:
        check_image(self.image)
        if self.pull_policy not in ("", *PULL_POLICIES):
            raise InputError(
                f"the pull policy {self.pull_policy!r} is not allowed; allowed: {', '.join(PULL_POLICIES)}"
            )


def make_way(config: dict[str, Any], item: Mapping[str, Any]) -> None:
    """Removes the stages' own mount of certificate authorities from a task's Kubernetes config if `item` mounts the
    same ConfigMap, or another volume at the same path: a pod can mount each only once, and the caller's mount wins."""
    config["configMapAsVolume"] = [
        other
        for other in config.get("configMapAsVolume", [])
        if other["mountPath"] != certificates.MOUNT_PATH
        or (other["configMapName"] != item.get("configMapName") and item.get("mountPath") != certificates.MOUNT_PATH)
    ]
    if not config["configMapAsVolume"]:
        del config["configMapAsVolume"]


def check_image(name: str) -> None:
    """Raises InputError unless Kubernetes would accept the name for a container image."""
    if not is_image(name):
        raise InputError(
            f"the image {name!r} is not a container image's name; allowed: registry/repository with :tag or "
            "@sha256:digest, without blanks, the repository in lower case"
        )


_settings: ContextVar[StageSettings] = ContextVar("stage_settings", default=StageSettings())


@contextmanager
def stage_settings(settings: StageSettings) -> Iterator[None]:
    """Stages that are added to a pipeline inside this block get these settings."""
    token = _settings.set(settings)
    try:
        yield
    finally:
        _settings.reset(token)


class Stage(PythonComponent):
    """A stage's component. In a pipeline its task mounts the ConfigMaps with the package and with certificate
    authorities, both optional."""

    def __init__(self, function: Callable, options: dict[str, Any]) -> None:
        self.options = options
        component = _component(function, options, StageSettings())
        self.config_map = archive_of(function.__name__).config_map
        super().__init__(component.component_spec, function)

    def __call__(self, *args: Any, **kwargs: Any) -> dsl.PipelineTask:
        settings = _settings.get()
        os.environ["KFP_OSFT_FOLDER"] = str(FOLDER)
        if pipeline_context.Pipeline.get_default_pipeline() is None:
            return super().__call__(*args, **kwargs)
        if settings == StageSettings():
            task = super().__call__(*args, **kwargs)
        else:
            task = _component(self.python_func, self.options, settings)(*args, **kwargs)
        mounts = {} if settings.package else {self.config_map: MOUNT_PATH}
        mounts |= {settings.certificates: certificates.MOUNT_PATH} if settings.certificates else {}
        from kfp import kubernetes

        for name, path in mounts.items():
            # Without `optional` a pod waits for a missing ConfigMap for ever, and KFP does not say why.
            kubernetes.use_config_map_as_volume(task, name, path, optional=True)
        if settings.pull_policy:
            kubernetes.set_image_pull_policy(task, settings.pull_policy)
        return task


def stage(training_parameters: bool = False, **options: Any) -> Callable[[Callable], Stage]:
    """Like kfp.dsl.component, for a function that imports from kfp_osft in its body.

    Args:
        training_parameters: whether the declared training parameters replace the function's **training.
        options: of kfp.dsl.component; base_image comes from the StageSettings.
    """

    def decorate(function: Callable) -> Stage:
        if training_parameters:
            return Stage(with_training_parameters(documented(function)), options)
        return Stage(function, options)

    return decorate


def _component(function: Callable, options: dict[str, Any], settings: StageSettings) -> PythonComponent:
    component: Any = dsl.component(
        function,
        **{
            **options,
            "base_image": settings.image,
            "install_kfp_package": settings.pip,
            **({} if settings.pip else {"packages_to_install": []}),
        },
    )
    spec = component.component_spec
    # Argo stores them several times; the pipeline's form has its own descriptions.
    for described in (*(spec.inputs or {}).values(), *(spec.outputs or {}).values()):
        described.description = None
    # KFP puts the program's source last in the command (component_factory).
    command = spec.implementation.container.command
    archive = archive_of(function.__name__)
    head = _HEAD.format(
        source=inspect.getsource(find_package),
        version=kfp_osft.__version__,
        digest=package_digest(),
        archive=ARCHIVE,
        archive_digest=archive.digest,
        config_map=archive.config_map,
        manifest=archive.manifest,
    )
    tail = (_TAIL_OF_TRAINING if hasattr(function, "__signature__") else "") + _TAIL
    tail = tail.format(function=function.__name__)
    # Argo stores the program five times. Blank lines stay between functions.
    program = without_words(head + command[-1] + tail).lstrip()
    command[-1] = re.sub(r"\n{2,}(?= )", "\n", re.sub(r"\n{3,}", "\n\n", program))
    # As often the script that starts it, in which KFP aligns the arguments with blanks.
    command[-2] = re.sub(" {2,}", " ", command[-2])
    if settings.package:
        # Like KFP itself without dependencies: the image has what the stages need.
        kfp = f"'kfp=={kfp_version}'"
        command[:] = [part.replace(kfp, f"{kfp} '{settings.package}'") if kfp in part else part for part in command]
    return component
