import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from helpers.trained_folder import make_trained_folder
from kfp_osft.stages.export_model.export import export_model
from kfp_osft.stages.export_model.lineage import earlier_trainings, model_name


def _trained(workspace: Path, base: Path, name: str, revision: dict | None = None) -> Path:
    """The folder of a model that was trained of another."""
    folder = make_trained_folder(workspace / "checkpoints" / name, base)
    run = json.loads((folder / "osft_run.json").read_text())
    run["about"].update(base_model=name if revision else str(base), dataset=f"/data/{workspace.name}.jsonl")
    (folder / "osft_run.json").write_text(json.dumps(run))
    if revision:
        manifest = folder / "_internal_data_processing" / "manifest.json"
        made = json.loads(manifest.read_text())
        made["made_from"]["base_model"] = {"id": name, **revision}
        manifest.write_text(json.dumps(made))
    artifact = str(workspace / "artifact")
    export_model(str(folder), str(workspace), SimpleNamespace(path=artifact, uri=artifact, metadata={}))
    return workspace / "final_model"


@pytest.fixture
def trained_thrice(tiny_model: Path, tmp_path: Path) -> Path:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: mit\nlanguage:\n- en\n---\nA model.\n")
    first = _trained(tmp_path / "one", base, "org/tiny", {"revision": "0" * 40})
    second = _trained(tmp_path / "two", first, "x")
    return _trained(tmp_path / "three", second, "y")


def test_a_model_of_several_trainings_names_the_first_base_and_each_step(trained_thrice: Path, tmp_path: Path):
    run = json.loads((trained_thrice / "osft_run.json").read_text())

    assert run["model_name"] == "tiny-osft-3"
    assert [step["dataset"]["name"] for step in run["lineage"]] == ["one.jsonl", "two.jsonl"]
    assert run["lineage"][0]["base_model"] == {"name": "org/tiny", "id": "org/tiny", "revision": "0" * 40}
    assert run["lineage"][0]["parameters"]["training_num_epochs"] == 2
    assert str(tmp_path) not in json.dumps(run)


def test_its_card_has_the_first_base_licence_and_language_and_a_line_for_each_training(trained_thrice: Path):
    card = ModelCard.load(trained_thrice / "README.md")

    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("org/tiny", "finetune")
    assert (data["license"], data["language"]) == ("mit", ["en"])
    lines = [line for line in card.text.splitlines() if line.startswith("1. ")]
    assert lines[0].startswith(f"1. org/tiny at {'0' * 40}, trained on one.jsonl, loss 4.000")
    assert lines[2].startswith("1. the model of the line above, trained on three.jsonl")
    assert "final_model-osft" not in card.content


LIST = '{"format": 2, "base_model": {"name": "x"}, "parameters": ["training_seed"]}'


@pytest.mark.parametrize(
    "content",
    [None, "{", "[]", '{"format": 1, "base_model": {}}', '{"format": 2, "base_model": "x"}', '{"osft": {}}', LIST],
)
def test_a_base_model_from_elsewhere_has_no_trainings_before(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "osft_run.json").write_text(content)

    assert earlier_trainings(tmp_path) == [] == earlier_trainings(None)


@pytest.mark.parametrize(
    ("base_model", "name"),
    [
        ("org/model", "model-osft"),
        ("/models/model", "model-osft"),
        ("oci://host:5000/org/model:1.2", "model-osft"),
        ("oci://host/org/model@sha256:0123", "model-osft"),
        ("", "model-osft"),
    ],
)
def test_the_name_of_a_first_training(base_model: str, name: str):
    assert model_name(base_model, []) == name
