"""What an administrator applies to a project once per version: the stages' code and the rights of launch_trainjob."""

import base64
from pathlib import Path

import kfp_osft
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
_ROLE = """\
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {role}
rules:
- {{apiGroups: [trainer.kubeflow.org], resources: [trainjobs], verbs: [create, get, delete]}}
- {{apiGroups: [""], resources: [pods], verbs: [get, list]}}
- {{apiGroups: [""], resources: [pods/log], verbs: [get]}}
# The rest is optional. It lets launch_trainjob report why a pod does not start, ...
- {{apiGroups: [""], resources: [events], verbs: [list]}}
# ... warn about a workspace that only one node can mount, ...
- {{apiGroups: [""], resources: [persistentvolumeclaims], verbs: [get]}}
# ... use a TrainingRuntime of the project, and list the available ones, ...
- {{apiGroups: [trainer.kubeflow.org], resources: [trainingruntimes], verbs: [get, list]}}
# ... report why Kueue does not admit a training, ...
- {{apiGroups: [kueue.x-k8s.io], resources: [workloads], verbs: [list]}}
# ... and pass on an HF_TOKEN that does not come from a Secret of the project.
- {{apiGroups: [""], resources: [secrets], verbs: [create]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {role}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {role}}}
subjects:
- {{kind: ServiceAccount, name: {service_account}}}
"""
#: Service account of the pipeline's pods on OpenShift AI, if the pipeline server has its usual name.
SERVICE_ACCOUNT = "pipeline-runner-dspa"
ROLE = "osft-launcher"


def manifest(service_account: str = SERVICE_ACCOUNT, role: str = ROLE, with_role: bool = True) -> str:
    """YAML of the ConfigMap with the code of osft_pipeline's stages, and of launch_trainjob's Role and RoleBinding.

    Args:
        service_account: service account of the pipeline's pods; the Role is bound to it.
        role: name of Role and RoleBinding.
        with_role: False leaves out the Role and RoleBinding.
    """
    role_of_launcher = _ROLE.format(role=role, service_account=service_account) if with_role else ""
    return _config_map(CORE, "the stages") + role_of_launcher


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
