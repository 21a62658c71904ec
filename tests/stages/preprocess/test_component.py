import json
from pathlib import Path

import pytest

from conftest import TINY_TRAINING
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.stages import preprocess
from pytest_kfp_local import KfpLocal


def test_rows_become_samples_and_a_training_config(
    kfp_local: KfpLocal, tmp_path: Path, tiny_model: Path, chat_rows: Path
):
    pvc = tmp_path / "pvc"

    outputs = kfp_local.run(
        preprocess, dataset_path=str(chat_rows), pvc_path=str(pvc), training_base_model=str(tiny_model), **TINY_TRAINING
    ).outputs

    assert outputs["num_samples"] == 32
    samples = [json.loads(line) for line in Path(outputs["data_path"]).read_text().splitlines()]
    assert len(samples) == 32
    assert all(len(sample["labels"]) == len(sample["input_ids"]) == sample["len"] for sample in samples)
    config = json.loads(outputs["training_config"])
    assert config["osft"]["data_path"] == outputs["data_path"]
    assert config["osft"]["use_processed_dataset"] is True
    assert Path(config["osft"]["ckpt_output_dir"]).is_relative_to(pvc / "checkpoints")
    # Left out: not passed, so that the library's default holds.
    assert not {"seed", "warmup_steps", "lr_scheduler", "use_liger", "save_final_checkpoint"} & set(config["osft"])


def test_bad_parameters_are_reported_all_at_once_without_a_traceback(errors_of, tmp_path: Path, chat_rows: Path):
    errors = errors_of(
        preprocess,
        dataset_path=str(chat_rows),
        pvc_path=str(tmp_path / "pvc"),
        training_unfreeze_rank_ratio=1.5,
        training_envs="A",
    )

    assert errors == [
        "training_envs: an item has no '=' (the first one); expected KEY=VAL,KEY=VAL",
        "training_unfreeze_rank_ratio=1.5 is not allowed; allowed: a number from 0 (one direction of each matrix) to 1 "
        "(all: nothing is protected)",
    ]
    assert not list(tmp_path.rglob("data.jsonl"))


@pytest.mark.parametrize("parameter", ALL_PARAMETERS, ids=lambda parameter: parameter.name)
def test_the_component_declares_each_parameter_as_the_declaration_does(parameter):
    types = {str: "String", int: "Integer", float: "Float", bool: "Boolean"}
    spec = preprocess.component_spec.inputs[parameter.name]

    assert spec.type == types[parameter.type]
    assert spec.default == parameter.component_default
    assert spec.optional
    assert f"{parameter.name}: {parameter.description}" in preprocess.python_func.__doc__
