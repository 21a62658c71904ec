"""The parameters in the form of osft_pipeline: its own, the training's, and with an evaluation the evaluation's."""

from collections.abc import Iterable

from kfp_osft.pipelines.did_you_mean import did_you_mean
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.parameters.evaluation_parameters import EVALUATION_PARAMETERS
from kfp_osft.shared.reporting.errors import InputError

#: osft_pipeline's own parameters, and their types.
OWN_PARAMETERS: dict[str, type] = {
    "dataset_uri": str,
    "dataset_split": str,
    "validation_uri": str,
    "validation_uri_split": str,
    "pvc_path": str,
    "check_matrices": int,
}
_NAMES = (*OWN_PARAMETERS, *(parameter.name for parameter in (*ALL_PARAMETERS, *EVALUATION_PARAMETERS)))


def check_names(names: Iterable[str]) -> None:
    """Raises InputError for names that are not parameters of osft_pipeline, one per line."""
    problems = [
        f"{name} is not a parameter of osft_pipeline{did_you_mean(name, _NAMES)}"
        for name in names
        if name not in _NAMES
    ]
    if problems:
        raise InputError("\n".join(problems))
