"""The rights of launch_trainjob in a project: its Role, and who has it."""

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


def rights(service_account: str, role: str) -> str:
    """YAML of the Role and RoleBinding; see manifest."""
    return _ROLE.format(role=role, service_account=service_account)
