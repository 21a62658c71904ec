"""What an administrator applies to a project once per version: the stages' code and the rights of launch_trainjob."""

import base64
from pathlib import Path

import kfp_osft
from kfp_osft.pipelines.osft.rights import ROLE, SERVICE_ACCOUNT, rights
from kfp_osft.stages.mount import ARCHIVE
from kfp_osft.stages.package import CORE, EVALUATION, Archive

_CONFIG_MAP = """\
# The code of {stages} of kfp-osft {version}. Versions can coexist: each pipeline names the one it was compiled with,
# and an upgrade does not affect running pipelines.
apiVersion: v1
kind: ConfigMap
metadata:
  name: {name}
  labels: {{app.kubernetes.io/name: kfp-osft, app.kubernetes.io/version: "{version}"}}
immutable: true
binaryData:
  {file}: {archive}
"""


def manifest(service_account: str = SERVICE_ACCOUNT, role: str = ROLE, with_role: bool = True) -> str:
    """YAML of the ConfigMap with the code of osft_pipeline's stages, and of launch_trainjob's Role and RoleBinding.

    Args:
        service_account: service account of the pipeline's pods; the Role is bound to it.
        role: name of Role and RoleBinding.
        with_role: False leaves out the Role and RoleBinding.
    """
    return _config_map(CORE, "the stages") + (rights(service_account, role) if with_role else "")


def evaluation_manifest() -> str:
    """YAML of the ConfigMap with the code of evaluate_model, which needs no Role."""
    return _config_map(EVALUATION, "evaluate_model, the optional stage,")


def _config_map(archive: Archive, stages: str) -> str:
    return _CONFIG_MAP.format(
        stages=stages,
        version=kfp_osft.__version__,
        name=archive.config_map,
        file=Path(ARCHIVE).name,
        archive=base64.b64encode(archive.content()).decode("ascii"),
    )
