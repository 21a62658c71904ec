import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from trained_folder import make_trained_folder

from kfp_osft.shared.errors import InputError
from kfp_osft.shared.model_export import export_model, last_complete_checkpoint


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def _artifact(folder: Path) -> SimpleNamespace:
    return SimpleNamespace(path=str(folder), metadata={})


def test_the_checkpoint_with_the_most_samples_is_the_last_whatever_the_file_times(tmp_path: Path, tiny_model: Path):
    folder = make_trained_folder(tmp_path, tiny_model, samples=("128.0", "64.0", "9.0"))

    assert last_complete_checkpoint(folder).name == "samples_128.0"


@pytest.mark.parametrize(("break_it", "reason"), [
    (lambda folder: _cut(folder / "model.safetensors"), "it was cut off"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b""), "is not a safetensors file"),
    (lambda folder: (folder / "model.safetensors").unlink(), "No such file"),
    (lambda folder: _cut(folder / "config.json"), "config.json is missing or cut off"),
    (lambda folder: (folder / "tokenizer_config.json").unlink(), "tokenizer_config.json is missing or cut off"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})), "No such file"),
])
def test_a_checkpoint_that_was_interrupted_is_passed_over_and_said(tmp_path: Path, tiny_model: Path, capsys, break_it,
                                                                   reason: str):
    folder = make_trained_folder(tmp_path, tiny_model, samples=("128.0", "64.0"))
    break_it(folder / "hf_format" / "samples_128.0")

    assert last_complete_checkpoint(folder).name == "samples_64.0"

    said = capsys.readouterr().out
    assert "checkpoint samples_128.0 is passed over" in said and reason in said


def test_the_weights_are_on_the_pvc_once(tmp_path: Path, tiny_model: Path):
    folder = make_trained_folder(tmp_path / "checkpoints", tiny_model)

    export_model(str(folder), str(tmp_path), _artifact(tmp_path / "artifact"))

    checkpoint = folder / "hf_format" / "samples_64.0" / "model.safetensors"
    assert (tmp_path / "final_model" / "model.safetensors").samefile(checkpoint)


def test_the_cache_is_on_again_in_the_model_and_the_checkpoint_is_left_as_it_is(tmp_path: Path, tiny_model: Path):
    folder = make_trained_folder(tmp_path / "checkpoints", tiny_model)

    export_model(str(folder), str(tmp_path), _artifact(tmp_path / "artifact"))

    assert json.loads((tmp_path / "final_model/config.json").read_text())["use_cache"] is True
    assert json.loads((folder / "hf_format/samples_64.0/config.json").read_text())["use_cache"] is False


def test_every_file_can_be_read_by_others_as_serving_pods_must(tmp_path: Path, tiny_model: Path):
    folder = make_trained_folder(tmp_path / "checkpoints", tiny_model)
    (folder / "hf_format" / "samples_64.0" / "model.safetensors").chmod(0o600)

    export_model(str(folder), str(tmp_path), _artifact(tmp_path / "artifact"))

    files = [file for file in (tmp_path / "final_model").rglob("*") if file.is_file()]
    assert files and all(file.stat().st_mode & 0o044 == 0o044 for file in files)


def test_an_earlier_final_model_is_replaced_whole(tmp_path: Path, tiny_model: Path):
    folder = make_trained_folder(tmp_path / "checkpoints", tiny_model)
    (tmp_path / "final_model").mkdir()
    (tmp_path / "final_model" / "old.safetensors").touch()

    export_model(str(folder), str(tmp_path), _artifact(tmp_path / "artifact"))

    assert not (tmp_path / "final_model" / "old.safetensors").exists()
    assert (tmp_path / "final_model" / "model.safetensors").is_file()


def test_an_earlier_final_model_stays_when_there_is_nothing_to_export(tmp_path: Path, tiny_model: Path):
    folder = make_trained_folder(tmp_path / "checkpoints", tiny_model)
    _cut(folder / "hf_format" / "samples_64.0" / "model.safetensors")
    (tmp_path / "final_model").mkdir()
    (tmp_path / "final_model" / "old.safetensors").touch()

    with pytest.raises(InputError, match="no complete checkpoint"):
        export_model(str(folder), str(tmp_path), _artifact(tmp_path / "artifact"))

    assert [file.name for file in (tmp_path / "final_model").iterdir()] == ["old.safetensors"]
    assert not (tmp_path / "artifact").exists()


def test_a_file_system_without_hard_links_gets_a_copy(tmp_path: Path, tiny_model: Path, monkeypatch):
    folder = make_trained_folder(tmp_path / "checkpoints", tiny_model)

    def refuse(source, target):
        raise OSError("Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    export_model(str(folder), str(tmp_path), _artifact(tmp_path / "artifact"))

    exported = tmp_path / "final_model" / "model.safetensors"
    assert exported.read_bytes() == (tiny_model / "model.safetensors").read_bytes()


def test_a_pulled_base_model_is_told_as_it_was_given(tmp_path: Path, tiny_model: Path):
    folder = make_trained_folder(tmp_path, tiny_model)
    run_file = folder / "osft_run.json"
    run = json.loads(run_file.read_text())
    run["about"]["base_model"] = "oci://quay.io/org/model:1"
    run_file.write_text(json.dumps(run))
    artifact = _artifact(tmp_path / "artifact")

    export_model(str(folder), str(tmp_path / "pvc"), artifact)

    assert artifact.metadata["base_model"] == "oci://quay.io/org/model:1"
    assert artifact.metadata["model_name"] == f"{tiny_model.name}-osft"
