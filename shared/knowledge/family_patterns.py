"""Which matrices OSFT limits in a family of models: mini-trainer's own choice, read from the installed version."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

from kfp_osft.shared.reporting.errors import InputError

#: Families for which mini-trainer's patterns (0.6.1 to 0.9.0) leave out most of the layers' weights, and better ones,
#: by their names in transformers. Each is trained as a tiny model in the tests.
OWN_PATTERNS = {
    "phi": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense", "mlp.fc1", "mlp.fc2"),
    "starcoder2": (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.c_fc",
        "mlp.c_proj",
    ),
}
_TABLES = ("MODEL_CONFIGS", "MODEL_NAME_MAPPINGS")


def family_patterns(model_type: str) -> list[str]:
    """The parts of names by which the matrices of a family are picked where nothing else is asked for.

    mini-trainer itself goes by the model's path: below "/opt" it takes the names of OPT's matrices. The config's
    model_type tells the family.

    Args:
        model_type: of the model's config, as "qwen2".

    Raises:
        InputError: mini-trainer is not installed here, or is a version whose tables are elsewhere.
    """
    if model_type in OWN_PATTERNS:
        return list(OWN_PATTERNS[model_type])
    configs, names = _mini_trainers_tables()
    # Its names have a hyphen where model types have an underscore, but for one (qwen3_5).
    spellings = (model_type, model_type.replace("_", "-"))
    key = next((names[name] for name in names if any(name in spelling for spelling in spellings)), "default")
    return list(configs[key]["patterns"])


def mini_trainer_folder() -> Path:
    """The folder of the installed mini-trainer, which is not imported: that loads torch and takes seconds.

    Raises:
        InputError: it is not installed.
    """
    spec = importlib.util.find_spec("mini_trainer")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "mini-trainer is not installed in this environment, so which matrices OSFT limits is not known; use an "
            "image with training-hub, or name them with training_target_patterns"
        )
    return Path(spec.submodule_search_locations[0])


def _mini_trainers_tables() -> tuple[dict[str, Any], dict[str, str]]:
    source = mini_trainer_folder() / "osft_utils.py"
    found = {}
    try:
        for statement in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                name = statement.targets[0].id
                if name in _TABLES:
                    found[name] = ast.literal_eval(statement.value)
        return found["MODEL_CONFIGS"], found["MODEL_NAME_MAPPINGS"]
    except (OSError, ValueError, SyntaxError, KeyError):
        raise InputError(
            f"{source} does not say which matrices OSFT limits, as mini-trainer 0.6.1 to 0.9.0 do; name them with "
            "training_target_patterns"
        ) from None
