"""training_config: the one JSON object that preprocess hands to launch_trainjob."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from kfp_osft.shared.reporting.errors import InputError


@dataclass(frozen=True)
class TrainingConfig:
    """What a training is started with, checked and typed.

    Attributes:
        fingerprint: of all that makes the trained model what it is: data, base model, arguments, environment.
        osft: keyword arguments of training_hub.osft, paths included.
        trainjob: what the TrainJob is made of (runtime, resources, workers, labels).
        data: what preprocess did with the rows.
        env: environment of the training, without secrets.
        about: what people are told about the run: base_model, dataset, and preprocess' report on the rows.
    """

    fingerprint: str
    osft: dict[str, Any]
    trainjob: dict[str, Any]
    data: dict[str, Any]
    env: dict[str, str]
    about: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "TrainingConfig":
        """Reads what to_json wrote.

        Raises:
            InputError: the text is not such an object.
        """
        try:
            config = cls(**json.loads(text))
            if not all(isinstance(config.osft[key], str) for key in ("data_path", "ckpt_output_dir")):
                raise TypeError("its paths are not strings")
            for part in (config.trainjob, config.data, config.env, config.about):
                part.keys()
            return config
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"training_config is not what preprocess returns: {error}") from None
