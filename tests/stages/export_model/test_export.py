import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from helpers.artifacts import artifact
from helpers.files import edit_json
from helpers.interpreters import run
from helpers.places import TESTS
from helpers.trained_folder import make_trained_folder
from kfp_osft.shared.files.manifests import file_digest, fingerprint
from kfp_osft.shared.knowledge.coverage import Coverage
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.stages.export_model.export import export_model
from kfp_osft.stages.export_model.published_run import add_check


def _export(workspace: Path, checkpoint_dir: Path) -> dict:
    """Exports and returns the artifact's metadata."""
    output_model = artifact(workspace / "artifact")
    assert export_model(str(checkpoint_dir), str(workspace), output_model) == "training completed"
    return output_model.metadata


def _as_transformers_4_writes_it(config: dict) -> None:
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["additional_special_tokens"] = config.pop("extra_special_tokens")


@pytest.fixture
def base_model(tmp_path: Path, tiny_model: Path) -> Path:
    """The tiny model with a card and a licence, in a folder that tests may change."""
    folder = shutil.copytree(tiny_model, tmp_path / "base")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.\n")
    (folder / "LICENSE").write_text("the words of the licence\n")
    return folder


@pytest.fixture
def checkpoint_dir(tmp_path: Path, base_model: Path) -> Path:
    return make_trained_folder(tmp_path / "checkpoints" / "x", base_model, samples=("64.0", "32.0"))


def test_the_weights_are_on_the_pvc_once(tmp_path: Path, checkpoint_dir: Path):
    _export(tmp_path, checkpoint_dir)

    checkpoint = checkpoint_dir / "hf_format" / "samples_64.0" / "model.safetensors"
    assert (tmp_path / "final_model" / "model.safetensors").samefile(checkpoint)


def test_a_changed_small_file_of_the_model_changes_no_other_folder(tmp_path: Path, checkpoint_dir: Path):
    _export(tmp_path, checkpoint_dir)

    with (tmp_path / "final_model" / "tokenizer_config.json").open("a") as file:
        file.write("changed")
    for folder in (tmp_path / "artifact", checkpoint_dir / "hf_format" / "samples_64.0", tmp_path / "base"):
        assert "changed" not in (folder / "tokenizer_config.json").read_text()


def test_tokenizer_template_generation_settings_and_licence_are_the_base_models_to_the_byte(
    tmp_path: Path, checkpoint_dir: Path, base_model: Path
):
    checkpoint = checkpoint_dir / "hf_format" / "samples_64.0"
    # As the Hub's are; transformers 5 writes them otherwise.
    for folder in (base_model, checkpoint):
        edit_json(folder / "tokenizer_config.json", _as_transformers_4_writes_it)
    edit_json(
        checkpoint_dir / "_internal_data_processing/manifest.json",
        lambda manifest: manifest["made_from"]["base_model"]["files"].update(
            {"tokenizer_config.json": file_digest(base_model / "tokenizer_config.json")}
        ),
    )
    # What mini-trainer's save makes of it.
    edit_json(checkpoint / "tokenizer_config.json", lambda config: config.update(is_local=True, local_files_only=False))
    (checkpoint / "chat_template.jinja").write_text("{# written anew #}")

    _export(tmp_path, checkpoint_dir)

    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "LICENSE"):
        assert (tmp_path / "final_model" / name).read_bytes() == (base_model / name).read_bytes()
        assert (tmp_path / "artifact" / name).read_bytes() == (base_model / name).read_bytes()


def test_a_tokenizer_that_has_changed_since_the_training_is_not_taken_and_said(
    tmp_path: Path, checkpoint_dir: Path, base_model: Path, capsys
):
    trained_with = (base_model / "chat_template.jinja").read_bytes()
    (base_model / "chat_template.jinja").write_text("{# another #}")

    _export(tmp_path, checkpoint_dir)

    assert (tmp_path / "final_model" / "chat_template.jinja").read_bytes() == trained_with
    assert "chat_template.jinja has changed since the training" in capsys.readouterr().out


def test_without_its_base_model_the_model_goes_with_what_the_trainer_saved_and_it_is_said(
    tmp_path: Path, checkpoint_dir: Path, base_model: Path, capsys
):
    shutil.rmtree(base_model)

    _export(tmp_path, checkpoint_dir)

    assert (tmp_path / "final_model" / "tokenizer.json").is_file()
    said = capsys.readouterr().out
    assert "is not there any more" in said and "shapes of the weights are not compared" in said


def test_a_tokenizer_in_the_names_of_transformers_5_gets_those_that_4_knows(
    tmp_path: Path, checkpoint_dir: Path, base_model: Path
):
    assert json.loads((base_model / "tokenizer_config.json").read_text())["tokenizer_class"] == "TokenizersBackend"

    _export(tmp_path, checkpoint_dir)

    config = json.loads((tmp_path / "final_model/tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and "<|im_start|>" in str(config)


def test_what_the_trainer_saved_of_the_weights_is_published_without_what_the_base_model_lacks(
    tmp_path: Path, checkpoint_dir: Path, base_model: Path, capsys
):
    from safetensors.torch import load_file, save_file

    weights = checkpoint_dir / "hf_format/samples_64.0/model.safetensors"
    tensors = load_file(weights)
    embedding = tensors["model.embed_tokens.weight"]
    save_file(
        {**tensors, "lm_head.weight": embedding.clone(), "model.rotary_emb.inv_freq": embedding[0].clone()}, weights
    )

    _export(tmp_path, checkpoint_dir)

    published = tmp_path / "final_model/model.safetensors"
    assert load_file(published).keys() == tensors.keys() == load_file(base_model / "model.safetensors").keys()
    assert published.samefile(weights) and published.samefile(tmp_path / "artifact/model.safetensors")
    assert "Left out, as the base model has no such tensors" in capsys.readouterr().out


def test_a_config_that_the_training_did_not_change_is_the_base_models_to_the_byte(
    tmp_path: Path, checkpoint_dir: Path, base_model: Path
):
    def old(config: dict) -> None:
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        config["torch_dtype"] = config.pop("dtype")

    edit_json(base_model / "config.json", old)
    edit_json(
        checkpoint_dir / "_internal_data_processing/manifest.json",
        lambda manifest: manifest["made_from"]["base_model"]["files"].pop("config.json"),
    )

    _export(tmp_path, checkpoint_dir)

    assert (tmp_path / "final_model/config.json").read_bytes() == (base_model / "config.json").read_bytes()


def test_the_cache_is_on_again_in_the_model_and_the_checkpoint_is_left_as_it_is(tmp_path: Path, checkpoint_dir: Path):
    _export(tmp_path, checkpoint_dir)

    assert json.loads((tmp_path / "final_model/config.json").read_text())["use_cache"] is True
    assert json.loads((checkpoint_dir / "hf_format/samples_64.0/config.json").read_text())["use_cache"] is False


def test_every_file_can_be_read_by_others_as_serving_pods_must(tmp_path: Path, checkpoint_dir: Path):
    (checkpoint_dir / "hf_format" / "samples_64.0" / "model.safetensors").chmod(0o600)
    earlier = os.umask(0o077)
    try:
        _export(tmp_path, checkpoint_dir)
    finally:
        os.umask(earlier)

    files = [file for file in (tmp_path / "final_model").rglob("*") if file.is_file()]
    assert len(files) == 9 and all(file.stat().st_mode & 0o044 == 0o044 for file in files)
    assert (tmp_path / "final_model").stat().st_mode & 0o055 == 0o055


def test_each_run_has_a_model_of_its_own_and_final_model_is_the_last_ones(tmp_path: Path, base_model: Path):
    # What people do for a second task: training goes on from final_model in the same workspace.
    for name in ("first", "second"):
        _export(tmp_path, make_trained_folder(tmp_path / "checkpoints" / name, base_model))

    assert os.readlink(tmp_path / "final_model") == "models/second"
    assert sorted(folder.name for folder in (tmp_path / "models").iterdir()) == ["first", "second"]
    first = tmp_path / "models/first/model.safetensors"
    assert first.samefile(tmp_path / "checkpoints/first/hf_format/samples_64.0/model.safetensors")


def test_a_folder_that_is_in_the_place_of_final_model_is_kept_and_said(tmp_path: Path, checkpoint_dir: Path, capsys):
    (tmp_path / "final_model").mkdir()
    (tmp_path / "final_model" / "of another tool").touch()

    _export(tmp_path, checkpoint_dir)

    (kept,) = (tmp_path / "models").glob("earlier-*")
    assert (kept / "of another tool").is_file() and (tmp_path / "final_model").is_symlink()
    assert f"{tmp_path / 'final_model'} was a folder; it is {kept} from now on" in capsys.readouterr().out


@pytest.mark.parametrize("leads_to", ["elsewhere", "models/gone", "final_model", "models/x"])
def test_a_link_in_the_place_of_final_model_is_replaced_and_what_it_leads_to_stays(
    tmp_path: Path, checkpoint_dir: Path, leads_to: str
):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "theirs").touch()
    (tmp_path / "final_model").symlink_to(leads_to)

    for _ in range(2):
        _export(tmp_path, checkpoint_dir)

    assert os.readlink(tmp_path / "final_model") == "models/x"
    assert (tmp_path / "elsewhere" / "theirs").is_file()


def test_a_link_in_the_place_of_the_runs_model_is_replaced(tmp_path: Path, checkpoint_dir: Path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "x").symlink_to("gone")

    _export(tmp_path, checkpoint_dir)

    assert not (tmp_path / "models" / "x").is_symlink() and (tmp_path / "final_model/model.safetensors").is_file()


def test_a_file_system_without_symbolic_links_gets_final_model_as_a_folder(
    tmp_path: Path, checkpoint_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*arguments, **options):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.symlink", refuse)
    for _ in range(2):
        _export(tmp_path, checkpoint_dir)

    final_model = tmp_path / "final_model"
    assert not final_model.is_symlink()
    assert (final_model / "model.safetensors").samefile(tmp_path / "models/x/model.safetensors")
    assert {file.name for file in final_model.iterdir()} == {file.name for file in (tmp_path / "models/x").iterdir()}


def test_an_earlier_final_model_is_replaced_whole(tmp_path: Path, checkpoint_dir: Path):
    (tmp_path / "final_model").mkdir()
    (tmp_path / "final_model" / "old.safetensors").touch()

    _export(tmp_path, checkpoint_dir)

    assert not (tmp_path / "final_model" / "old.safetensors").exists()
    assert (tmp_path / "final_model" / "model.safetensors").is_file()


def test_an_earlier_final_model_stays_when_there_is_nothing_to_export(tmp_path: Path, checkpoint_dir: Path):
    for weights in checkpoint_dir.glob("hf_format/*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-10])
    (tmp_path / "final_model").mkdir()
    (tmp_path / "final_model" / "old.safetensors").touch()

    with pytest.raises(InputError, match="no complete checkpoint"):
        export_model(str(checkpoint_dir), str(tmp_path), artifact(tmp_path / "artifact"))

    assert [file.name for file in (tmp_path / "final_model").iterdir()] == ["old.safetensors"]
    assert not (tmp_path / "artifact").exists()


def test_a_checkpoint_that_was_interrupted_is_passed_over_and_said(tmp_path: Path, checkpoint_dir: Path, capsys):
    (checkpoint_dir / "hf_format" / "samples_64.0" / "config.json").unlink()

    assert _export(tmp_path, checkpoint_dir)["checkpoint"] == "samples_32.0"
    assert "checkpoint samples_64.0 is passed over: config.json is missing" in capsys.readouterr().out


def test_a_matrix_that_is_not_the_base_models_is_found(tmp_path: Path, checkpoint_dir: Path, capsys):
    from safetensors.torch import load_file, save_file

    weights = checkpoint_dir / "hf_format" / "samples_64.0" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:5].clone()
    save_file(tensors, weights)

    assert _export(tmp_path, checkpoint_dir)["checkpoint"] == "samples_32.0"
    assert "model.norm.weight has the shape [5], in the base model [64]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("val_losses", "log", "published"),
    [
        ({4: 2.0, 8: 2.5}, "", "samples_32.0"),
        ({4: 2.5, 8: 2.0}, "", "samples_64.0"),
        # At the end of the epochs: the first shows with step 5, the second in the log alone.
        ({5: 2.0}, 'shown: "step": 8\nEpoch 2 validation loss: 1.5\n', "samples_64.0"),
        ({5: 2.0}, 'shown: "step": 8\nEpoch 2 validation loss: 2.5\n', "samples_32.0"),
    ],
)
def test_the_checkpoint_with_the_lowest_validation_loss_is_published(
    tmp_path: Path, checkpoint_dir: Path, val_losses: dict[int, float], log: str, published: str
):
    lines = [json.loads(line) for line in (checkpoint_dir / "training_metrics_0.jsonl").read_text().splitlines()]
    shown = None
    for line in lines:
        shown = val_losses.get(line["step"], shown)
        line["val_loss"] = shown
        if line["step"] in val_losses and not log:
            line["val_num_samples"] = 4.0
    (checkpoint_dir / "training_metrics_0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (checkpoint_dir / "training_log_node0.log").write_text(log)

    metadata = _export(tmp_path, checkpoint_dir)

    assert metadata["checkpoint"] == published
    run = json.loads((tmp_path / "final_model/osft_run.json").read_text())
    assert run["checkpoint"]["validation_loss"] == metadata["lowest_validation_loss"]


def test_a_file_system_without_hard_links_gets_a_copy(tmp_path: Path, checkpoint_dir: Path, monkeypatch, capsys):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    _export(tmp_path, checkpoint_dir)

    exported = tmp_path / "final_model" / "model.safetensors"
    checkpoint = checkpoint_dir / "hf_format/samples_64.0/model.safetensors"
    assert exported.read_bytes() == checkpoint.read_bytes() and not exported.samefile(checkpoint)
    assert "weights are copied to" in capsys.readouterr().out


def test_where_kfp_uploads_the_artifact_it_links_to_the_runs_own_files(tmp_path: Path, checkpoint_dir: Path):
    output_model = artifact(tmp_path / "s3" / "model", "s3://bucket/model")
    export_model(str(checkpoint_dir), str(tmp_path), output_model)
    exported = {file.name: file.read_bytes() for file in (tmp_path / "final_model").iterdir()}
    # Another run takes final_model before the upload.
    (tmp_path / "final_model").unlink()

    files = list(Path(output_model.path).iterdir())
    assert all(file.is_symlink() for file in files)
    assert {file.name: file.read_bytes() for file in files} == exported
    assert (output_model.uri, output_model.metadata["artifact_path"]) == ("s3://bucket/model", "s3://bucket/model")


def test_where_kfp_uploads_and_there_are_no_hard_links_it_links_to_the_published_model(
    tmp_path: Path, checkpoint_dir: Path, monkeypatch
):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    output_model = artifact(tmp_path / "s3" / "model", "s3://bucket/model")
    export_model(str(checkpoint_dir), str(tmp_path), output_model)

    weights = Path(output_model.path) / "model.safetensors"
    assert weights.is_symlink() and weights.samefile(tmp_path / "final_model" / "model.safetensors")


def test_a_full_volume_is_told_and_the_earlier_model_stays(tmp_path: Path, checkpoint_dir: Path, monkeypatch):
    _export(tmp_path, checkpoint_dir)
    before = sorted((file.name, file.read_bytes()) for file in (tmp_path / "final_model").iterdir())

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(InputError, match="the model does not fit there: No space left on device"):
        export_model(str(checkpoint_dir), str(tmp_path), artifact(tmp_path / "artifact"))

    assert sorted((file.name, file.read_bytes()) for file in (tmp_path / "final_model").iterdir()) == before
    assert not list(tmp_path.glob(".final_model*"))


def test_the_artifacts_metadata_tells_what_it_was_made_from_and_is_json(tmp_path: Path, checkpoint_dir: Path):
    metadata = _export(tmp_path, checkpoint_dir)

    assert json.loads(json.dumps(metadata, allow_nan=False)) == metadata
    assert {
        key: metadata[key]
        for key in (
            "model_name",
            "artifact_path",
            "pvc_model_dir",
            "base_model",
            "checkpoint_dir",
            "checkpoint",
            "library_versions",
        )
    } == {
        "model_name": "base-osft",
        "artifact_path": str(tmp_path / "artifact"),
        "pvc_model_dir": str(tmp_path / "final_model"),
        "base_model": "base",
        "checkpoint_dir": str(checkpoint_dir),
        "checkpoint": "samples_64.0",
        "library_versions": "torch 2.9.1, training-hub 0.11.2",
    }
    assert len(metadata["data_fingerprint"]) == 64
    assert metadata["training_unfreeze_rank_ratio"] == 0.25
    assert metadata["final_loss"] == 4.0 and metadata["rows_dropped"] == 2
    # What is nested comes back from KFP's backend in another form.
    assert {type(value) for value in metadata.values()} <= {str, int, float}


def test_the_card_and_the_run_file_lie_in_the_model(tmp_path: Path, checkpoint_dir: Path):
    _export(tmp_path, checkpoint_dir)

    for folder in (tmp_path / "final_model", tmp_path / "artifact"):
        card = ModelCard.load(folder / "README.md")
        assert card.data.license == "apache-2.0" and card.data.pipeline_tag == "text-generation"
        assert "base, fine-tuned on rows.jsonl" in card.text and "samples_64.0 (step 8)" in card.text
        run = json.loads((folder / "osft_run.json").read_text())
        assert run["checkpoint"] == {
            "name": "samples_64.0",
            "description": "samples_64.0 (step 8)",
            "samples": 64.0,
            "step": 8,
            "validation_loss": None,
        }
        assert run["base_model"]["files"]["tokenizer.json"] and run["dataset"]["digests"] == ["d" * 64]
        assert run["parameters"]["training_num_epochs"] == 2


def test_a_hub_dataset_is_named_by_its_id_and_commit(tmp_path: Path, checkpoint_dir: Path):
    rows = tmp_path / "datasets" / "org--rows-1"
    rows.mkdir(parents=True)
    source = {"uri": f"hf://org/rows@{'0' * 40}", "hub": "org/rows", "commit": "0" * 40, "split": "train"}
    (rows / ".manifest.json").write_text(json.dumps({"made_from": {}, "source": source}))
    edit_json(checkpoint_dir / "osft_run.json", lambda run: run["about"].update(dataset=str(rows / "data.jsonl")))

    _export(tmp_path, checkpoint_dir)

    assert ModelCard.load(tmp_path / "final_model/README.md").data.datasets == ["org/rows"]
    dataset = json.loads((tmp_path / "final_model/osft_run.json").read_text())["dataset"]
    assert {key: dataset[key] for key in source} == source


def test_the_rows_that_were_held_out_are_told_with_where_they_came_from(tmp_path: Path, checkpoint_dir: Path):
    rows = tmp_path / "datasets" / "rows-1"
    rows.mkdir(parents=True)
    (rows / ".manifest.json").write_text(json.dumps({"made_from": {}, "source": {"uri": "s3://bucket/dev.jsonl"}}))
    file = str(rows / "dev.jsonl")
    edit_json(checkpoint_dir / "osft_run.json", lambda run: run["about"].update(validation_dataset=file))
    manifest = checkpoint_dir / "_internal_data_processing" / "manifest.json"
    edit_json(manifest, lambda manifest: manifest["made_from"].update(held_out=["sha"]))

    _export(tmp_path, checkpoint_dir)

    published = json.loads((tmp_path / "final_model/osft_run.json").read_text())
    assert published["validation"] == {
        "name": "dev.jsonl",
        "uri": "s3://bucket/dev.jsonl",
        "digests": ["sha"],
        "fingerprint": fingerprint(["sha"]),
    }


def test_a_folder_of_another_trainer_run_is_exported_with_what_is_known(tmp_path: Path, checkpoint_dir: Path):
    for name in ("osft_run.json", "training_metrics_0.jsonl", "library_versions.json"):
        (checkpoint_dir / name).unlink()

    metadata = _export(tmp_path, checkpoint_dir)

    assert (
        metadata["model_name"] == "model-osft" and "library_versions" not in metadata and "final_loss" not in metadata
    )
    assert ModelCard.load(tmp_path / "final_model/README.md").data.library_name == "transformers"


def test_a_model_is_not_withheld_because_its_metrics_are_broken(tmp_path: Path, checkpoint_dir: Path, capsys):
    (checkpoint_dir / "training_metrics_0.jsonl").write_text("something else\n")

    assert _export(tmp_path, checkpoint_dir)["checkpoint"] == "samples_64.0"
    assert "chosen without the metrics" in capsys.readouterr().out


def test_a_model_that_its_training_broke_is_withheld_unless_it_is_asked_for(
    tmp_path: Path, checkpoint_dir: Path, capsys
):
    metrics = checkpoint_dir / "training_metrics_0.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    # As at a learning rate of 10: ln(vocabulary) for every token, and no gradient.
    metrics.write_text("".join(json.dumps({**line, "loss": 6.4, "grad_norm": 0.0}) + "\n" for line in lines))

    with pytest.raises(
        TrainingError, match="the training broke the model: no gradient .* training_learning_rate is to"
    ):
        export_model(str(checkpoint_dir), str(tmp_path), artifact(tmp_path / "artifact"))
    assert not (tmp_path / "final_model").exists()

    edit_json(checkpoint_dir / "osft_run.json", lambda run: run.update(data={"export_broken_model": True}))
    _export(tmp_path, checkpoint_dir)
    assert "it is exported as training_export_broken_model says" in capsys.readouterr().out
    assert "Warning: The gradient was 0 in 8 of 8 steps" in (tmp_path / "final_model/README.md").read_text()


def test_the_card_says_in_words_what_was_learnt_and_limited_and_later_what_was_kept(
    tmp_path: Path, checkpoint_dir: Path
):
    coverage = Coverage(11, 100, 5, ["q_proj"], ["layers.*.q_proj.weight"], ["layers.*.experts.weight"])
    edit_json(checkpoint_dir / "osft_run.json", lambda run: run["about"].update(osft_coverage=coverage.figures()))
    _export(tmp_path, checkpoint_dir)

    card = (tmp_path / "final_model/README.md").read_text()
    assert "5.750 at the first step, 4.000 over the last tenth of 8 steps: the model learnt from them." in card
    assert "OSFT limits 11% of the weights" in card and "expect forgetting as with that" in card
    assert "hardly teaches anything" in card and "was not measured" in card

    figures = {"general_text_loss_before": 2.0, "general_text_loss_after": 3.0}
    add_check(tmp_path / "final_model", "kept: 0.02% of the change", figures)

    card = (tmp_path / "final_model/README.md").read_text()
    assert "kept: 0.02% of the change." in card and "worse than before, the model forgot" in card
    assert json.loads((tmp_path / "final_model/osft_run.json").read_text())["kept"] == "kept: 0.02% of the change"


def test_a_checkpoint_dir_that_is_not_there_is_told(tmp_path: Path):
    with pytest.raises(InputError, match="no complete checkpoint in .*nowhere"):
        export_model(str(tmp_path / "nowhere"), str(tmp_path), artifact(tmp_path / "artifact"))


def test_a_run_file_that_is_something_else_is_refused_by_name(tmp_path: Path, checkpoint_dir: Path):
    (checkpoint_dir / "osft_run.json").write_text("[]")

    with pytest.raises(InputError, match="osft_run.json is not what launch_trainjob writes"):
        _export(tmp_path, checkpoint_dir)


def test_nothing_of_the_environment_reaches_the_card_or_the_run_file(tmp_path: Path, checkpoint_dir: Path, monkeypatch):
    secret = "hf_thesecretthatnobodymaysee"
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "KUBERNETES_AUTH_TOKEN", "MY_OWN"):
        monkeypatch.setenv(name, secret)

    metadata = _export(tmp_path, checkpoint_dir)

    assert secret not in json.dumps(metadata)
    for name in ("README.md", "osft_run.json"):
        assert secret not in (tmp_path / "final_model" / name).read_text()


@pytest.mark.parametrize("steps", ["one", "two"])
def test_killed_anywhere_it_leaves_the_old_model_or_the_new_one_and_a_rerun_ends_well(
    tmp_path: Path, checkpoint_dir: Path, steps: str
):
    # At each call that changes something on disk; with and without a file system that swaps folders in one step.
    program = TESTS / "helpers/killed_exports.py"

    printed = run(sys.executable, program, tmp_path, checkpoint_dir, steps, cwd=tmp_path)

    kills, missing = map(int, printed.splitlines()[-1].split())
    assert kills >= 25
    # In two steps there is one moment, between them, at which there is no model until the next call.
    assert missing == (1 if steps == "two" else 0)


def test_a_pulled_base_model_is_told_as_it_was_given(tmp_path: Path, checkpoint_dir: Path):
    run_file = checkpoint_dir / "osft_run.json"
    run = json.loads(run_file.read_text())
    run["about"]["base_model"] = "oci://quay.io/org/model:1"
    run_file.write_text(json.dumps(run))

    assert _export(tmp_path, checkpoint_dir)["base_model"] == "oci://quay.io/org/model:1"
