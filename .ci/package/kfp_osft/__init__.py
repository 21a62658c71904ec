"""OSFT fine-tuning as Kubeflow Pipelines stages.

This folder is where the three top folders of the repository become one package, for setuptools, type checkers and
editors: `kfp_osft.pipelines`, `kfp_osft.stages`, `kfp_osft.shared`.
"""

__version__ = "0.1.0"
