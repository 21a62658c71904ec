"""What an administrator applies to a project, once a version: the stages' code, and the rights of launch_trainjob."""

import base64

import kfp_osft
from kfp_osft.stages.package import config_map_name, package_archive

_CONFIG_MAP = """\
# The code of the stages of kfp-osft {version}. Versions live side by side: each pipeline names the one it was compiled
# with, and runs that go on keep theirs.
apiVersion: v1
kind: ConfigMap
metadata:
  name: {name}
  labels: {{app.kubernetes.io/name: kfp-osft, app.kubernetes.io/version: "{version}"}}
immutable: true
binaryData:
  kfp_osft.tar.bz2: {archive}
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
# It works without these. They tell why a pod does not start, ...
- {{apiGroups: [""], resources: [events], verbs: [list]}}
# ... warn of a workspace that only one node can mount, ...
- {{apiGroups: [""], resources: [persistentvolumeclaims], verbs: [get]}}
# ... let training_runtime name a runtime of the project, and list those there are, ...
- {{apiGroups: [trainer.kubeflow.org], resources: [trainingruntimes], verbs: [get, list]}}
# ... say why Kueue does not admit a training, ...
- {{apiGroups: [kueue.x-k8s.io], resources: [workloads], verbs: [list]}}
# ... and hand on an HF_TOKEN that does not come from a Secret of the project.
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
#: The service account of the pipeline's pods on OpenShift AI, with the pipeline server's usual name.
SERVICE_ACCOUNT = "pipeline-runner-dspa"
ROLE = "osft-launcher"


def manifest(service_account: str = SERVICE_ACCOUNT, role: str = ROLE, with_role: bool = True) -> str:
    """YAML of the ConfigMap with the stages' code, and of the Role and RoleBinding of launch_trainjob.

    Args:
        service_account: that of the pipeline's pods; the Role is bound to it.
        role: name of Role and RoleBinding.
        with_role: False leaves these two out.
    """
    code = _CONFIG_MAP.format(
        version=kfp_osft.__version__,
        name=config_map_name(),
        archive=base64.b64encode(package_archive()).decode("ascii"),
    )
    return code + (_ROLE.format(role=role, service_account=service_account) if with_role else "")
