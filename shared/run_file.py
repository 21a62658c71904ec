"""osft_run.json, beside the checkpoints: the training that made them ended well, and all it was made from."""

import json
from pathlib import Path
from typing import Any

RUN_FILE = "osft_run.json"


def read_run(checkpoint_dir: Path) -> dict[str, Any] | None:
    """What launch_trainjob wrote there, or None: another training's folder.

    Its fields: fingerprint, trainjob_name, seconds (wall-clock of the training), osft (arguments of
    training_hub.osft), about (base_model, dataset, and preprocess' counts of rows and tokens).
    """
    path = checkpoint_dir / RUN_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
