import json

import pytest

from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.training.run_parameters import training_parameters, with_effect, without_folder

# A value other than the default for each that goes anywhere; lists and maps with all that their syntax has.
GIVEN = {
    "training_base_model": "org/model",
    "training_effective_batch_size": 16,
    "training_max_tokens_per_gpu": 2048,
    "training_max_seq_len": 256,
    "training_learning_rate": 1e-4,
    "training_lr_warmup_steps": 5,
    "training_checkpoint_at_epoch": True,
    "training_num_epochs": 3,
    "training_envs": "A=1,B=x=y,C=1\\,2,D=true,E=",
    "training_resource_cpu_per_worker": "500m",
    "training_resource_gpu_per_worker": 0,
    "training_resource_memory_per_worker": "4Gi",
    "training_resource_num_procs_per_worker": "2",
    "training_resource_num_workers": 2,
    "training_metadata_labels": "team=nlp,example.com/x=y",
    "training_metadata_annotations": "note=a\\,b",
    "training_unfreeze_rank_ratio": 0.5,
    "training_target_patterns": "q_proj,v_proj",
    "training_seed": 7,
    "training_use_liger": False,
    "training_unmask_messages": True,
    "training_lr_scheduler": "cosine_with_min_lr",
    "training_lr_scheduler_kwargs": "min_lr=1e-06,num_cycles=0.5,flag=true,name=x",
    "training_save_final_checkpoint": True,
    "training_runtime": "mine",
    "training_min_osft_share": 0.25,
    "training_export_broken_model": True,
    "training_trust_remote_code": True,
    "dataset_columns": "user=my\\, question,assistant=answer",
    "dataset_subset": 100,
    "training_validation_split": 0.1,
    "training_validation_every": "20",
    "training_save_best": True,
    "training_optimizer_kwargs": "beta1=0.8,eps=1e-06,weight_decay=0.1",
    "training_save_dtype": "bfloat16",
    "training_block_size": 512,
    "training_report_to": "mlflow,tensorboard",
}


def _run(given: dict) -> dict:
    """osft_run.json of a run with these parameters, through JSON as a file is."""
    checked = check_parameters(given)
    osft = {
        **checked.osft,
        "data_path": "/x/data.jsonl",
        "data_output_dir": "/x",
        "ckpt_output_dir": "/y",
        "use_processed_dataset": True,
    }
    run = {"osft": osft, "trainjob": checked.trainjob, "env": checked.env, "data": checked.data, "about": {}}
    return json.loads(json.dumps(run))


@pytest.mark.parametrize("given", [GIVEN, {}, {"training_use_liger": True}], ids=["all of them", "none", "one"])
def test_the_parameters_of_a_run_make_the_same_run_again(given: dict):
    parameters = training_parameters(_run(given))

    assert check_parameters(parameters) == check_parameters(given)
    # Nothing that was left to the library is passed now.
    left_out = {parameter.name for parameter in ALL_PARAMETERS if parameter.optional and not parameter.always_passed}
    assert parameters.keys() & left_out == given.keys() & left_out


def test_each_parameter_comes_back_as_it_was_given():
    parameters = training_parameters(_run(GIVEN))

    assert {name: parameters[name] for name in GIVEN} == GIVEN


def test_every_parameter_that_reaches_the_training_is_tried_here():
    nowhere = {parameter.name for parameter in ALL_PARAMETERS if not parameter.goes_to}
    of_the_stages = {"training_data_output_dir", "training_use_processed_dataset"}
    of_no_effect_on_the_model = {
        "training_start_deadline_minutes",
        "training_time_limit_minutes",
        "training_queue_limit_minutes",
        "training_unattended_limit_minutes",
        "training_max_dropped_share",
        "training_show_sample",
        "training_resource_shared_memory_per_worker",
    }
    assert {each.name for each in ALL_PARAMETERS} == GIVEN.keys() | nowhere | of_the_stages | of_no_effect_on_the_model


@pytest.mark.parametrize("was_processed", [True, False])
def test_that_the_rows_were_tokens_already_is_told_by_the_data_and_not_by_the_trainers_argument(was_processed: bool):
    parameters = training_parameters(_run({}), was_processed)

    assert ("training_use_processed_dataset" in parameters) is was_processed
    assert "training_data_output_dir" not in parameters


def test_the_base_model_is_the_one_that_was_given_and_not_the_folder_it_was_fetched_to():
    run = _run({"training_base_model": "/pvc/models/x"})
    run["about"]["base_model"] = "oci://registry/model:1"

    assert training_parameters(run)["training_base_model"] == "oci://registry/model:1"


def test_a_ratio_of_1_and_a_familys_own_patterns_are_given_back_as_they_were_given():
    run = _run({"training_unfreeze_rank_ratio": 1.0})
    run["osft"]["target_patterns"] = ["q_proj"]
    run["about"]["uses_family_patterns"] = True

    parameters = training_parameters(run)

    assert parameters["training_unfreeze_rank_ratio"] == 1.0
    assert "training_target_patterns" not in parameters


def test_people_see_the_parameters_that_had_an_effect():
    given = {**GIVEN, "training_show_sample": False, "training_use_processed_dataset": True}
    parameters = training_parameters(_run(given), was_processed=True)

    local, cluster = (with_effect(parameters, on_this_computer) for on_this_computer in (True, False))

    assert {"training_num_epochs", "training_target_patterns", "training_save_best"} <= local.keys()
    # Of pods, of what may go on or is shown, switched off, or without effect on rows that hold their labels.
    without = {
        "training_base_model",
        "training_resource_num_workers",
        "training_time_limit_minutes",
        "training_show_sample",
        "training_min_osft_share",
        "training_use_liger",
        "training_unmask_messages",
    }
    assert not without & local.keys()
    assert cluster.keys() - local.keys() == {"training_runtime"}


@pytest.mark.parametrize(("base_model", "kept"), [("/home/me/model", False), ("~/model", False), ("org/model", True)])
def test_a_base_model_that_is_a_folder_is_not_published(base_model: str, kept: bool):
    assert ("training_base_model" in without_folder({"training_base_model": base_model})) is kept
