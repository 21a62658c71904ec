"""osft_run.json and the model card of an exported model: all that made it, without this computer's paths."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.atomic import write_json
from kfp_osft.shared.knowledge.coverage import Coverage
from kfp_osft.shared.model.folder import is_folder_name
from kfp_osft.shared.training.figures import PARAMETERS
from kfp_osft.shared.training.run_file import RUN_FILE, is_local
from kfp_osft.shared.training.run_parameters import with_effect
from kfp_osft.stages.export_model.findings import findings
from kfp_osft.stages.export_model.lineage import described, sentences
from kfp_osft.stages.export_model.model_card import CARD, CardFacts, model_card


def without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are no paths: those name a person's home, or a place that goes with the run."""
    return {key: value for key, value in values.items() if not (isinstance(value, str) and is_folder_name(value))}


def write_published(folder: Path, published: Mapping[str, Any]) -> None:
    """Writes osft_run.json and the card into a model's folder."""
    write_json(folder / RUN_FILE, published)
    (folder / CARD).write_text(card_of(published), encoding="utf-8")


def add_check(folder: Path, verdict: str, figures: Mapping[str, float]) -> None:
    """Adds to a published model what was measured of it afterwards.

    Args:
        folder: of the model, with the files of write_published.
        verdict, figures: of KnowledgeCheck: verdict and metrics().
    """
    published = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    published["kept"] = verdict
    published["metrics"] |= figures
    write_published(folder, published)


def card_of(published: Mapping[str, Any]) -> str:
    """The model card of a run, by the content of its osft_run.json."""
    dataset, metrics, earlier = published["dataset"], published["metrics"], published.get("lineage") or []
    return model_card(
        CardFacts(
            name=published["model_name"],
            base_model=published["base_model"]["name"],
            dataset=dataset.get("hub") or dataset.get("uri") or dataset.get("name") or "",
            is_hub_dataset="hub" in dataset,
            checkpoint=f"checkpoint {published['checkpoint']['description']}",
            parameters=with_effect(published["parameters"], is_local(published)),
            metrics={key: value for key, value in metrics.items() if key not in PARAMETERS.values()},
            versions=published["library_versions"],
            carried=published.get("carried") or {},
            findings=findings(
                metrics,
                Coverage.from_figures((published.get("about") or {}).get("osft_coverage")),
                published.get("kept") or "",
                published.get("warnings") or (),
            ),
            lineage=sentences([*earlier, described(published)]) if earlier else (),
            first_base=str(earlier[0]["base_model"].get("name", "")) if earlier else "",
        )
    )
