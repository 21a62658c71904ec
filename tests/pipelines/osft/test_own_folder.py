"""Which pipelines with several trainings are refused when they are compiled."""

import pytest
from kfp import dsl

from helpers.compiled_pipeline import PYTHON_IMAGE, STAGES, compile_, make_values, say
from helpers.compiled_pipeline import WORKSPACE as WORKSPACE_CONFIG
from kfp_osft.pipelines import osft_pipeline, train_model
from kfp_osft.shared.reporting.errors import InputError

WORKSPACE = dsl.WORKSPACE_PATH_PLACEHOLDER


@dsl.component(base_image=PYTHON_IMAGE)
def repeat(text: str) -> str:
    return text


def train(**arguments):
    return train_model(dataset_uri="org/rows", **arguments)


def refused(callers, parameters=None) -> str:
    with pytest.raises(InputError) as error:
        compile_(callers, parameters or {})
    return str(error.value)


def test_a_loop_with_one_folder_is_refused_with_the_f_string_that_helps():
    def callers():
        with dsl.ParallelFor([1e-5, 1e-4]) as lr:
            train(pvc_path="/data", training_learning_rate=lr)

    assert refused(callers) == (
        "pvc_path=/data is one folder for all iterations of the ParallelFor, whose trainings would replace each "
        'other\'s final_model; make it differ, as in pvc_path=f"/data/{item}"'
    )


def test_the_f_string_is_in_the_callers_words():
    def of_fields():
        with dsl.ParallelFor([{"rate": 1e-5, "seed": 1}]) as each:
            train(pvc_path=WORKSPACE, training_learning_rate=each.rate)

    def of_a_parameter(folder):
        with dsl.ParallelFor([1, 2]) as seed:
            train(pvc_path=f"{folder}/trainings", training_seed=seed)

    def of_an_output():
        values = make_values()
        with dsl.ParallelFor([1, 2], parallelism=1) as seed:
            train(pvc_path=values.outputs["text"], training_seed=seed)

    assert 'pvc_path=f"{dsl.WORKSPACE_PATH_PLACEHOLDER}/{item.rate}"' in refused(of_fields)
    assert 'pvc_path=f"{folder}/trainings/{item}"' in refused(of_a_parameter, {"folder": str})
    assert 'pvc_path=f"{text}/{item}"' in refused(of_an_output)


def test_a_loop_with_a_folder_for_each_item_compiles():
    def callers():
        with dsl.ParallelFor([1e-5, 1e-4]) as lr:
            train(pvc_path=f"{WORKSPACE}/lr-{lr}", training_learning_rate=lr)
        with dsl.ParallelFor([{"rate": 1e-5}]) as each:
            train(pvc_path=f"/data/{each.rate}", training_learning_rate=each.rate)
        with dsl.ParallelFor(["/data/a", "/data/b"]) as folder:
            train(pvc_path=folder)
        with dsl.ParallelFor([1, 2]) as seed:
            # The task's output is another one in each iteration.
            train(pvc_path=make_values().outputs["text"], training_seed=seed)

    compile_(callers, pipeline_config=dsl.PipelineConfig(workspace=WORKSPACE_CONFIG))


@pytest.mark.parametrize("path", ["/data/{inner}", "/data/{outer}"])
def test_in_nested_loops_the_folder_differs_with_both_items(path: str):
    def callers():
        with dsl.ParallelFor([1, 2]) as outer, dsl.ParallelFor([3, 4]) as inner:
            train(pvc_path=path.format(outer=outer, inner=inner))

    def both():
        with dsl.ParallelFor([1, 2]) as outer, dsl.ParallelFor([3, 4]) as inner:
            train(pvc_path=f"/data/{outer}-{inner}")

    assert "ParallelFor" in refused(callers)
    compile_(both)


@pytest.mark.parametrize(("first", "second"), [("/data", "/data"), ("/data", "/data/"), (WORKSPACE, "/kfp-workspace")])
def test_two_trainings_in_one_folder_are_refused(first: str, second: str):
    def callers():
        train(pvc_path=first, training_seed=1)
        train(pvc_path=second, training_seed=2)

    message = refused(callers)
    assert "is given to two trainings of the pipeline, which would replace each other's final_model" in message
    shown = "{dsl.WORKSPACE_PATH_PLACEHOLDER}" if second == WORKSPACE else second.rstrip("/")
    assert message.endswith(f'give each a folder of its own, as in pvc_path=f"{shown}/second"')


def test_two_trainings_in_the_folder_of_one_parameter_are_refused_and_in_folders_of_it_compile():
    def same(folder):
        train(pvc_path=folder)
        train(pvc_path=f"{folder}")

    def apart(folder):
        train(pvc_path=folder)
        train(pvc_path=f"{folder}/second")

    assert 'pvc_path=f"{folder}/second"' in refused(same, {"folder": str})
    compile_(apart, {"folder": str})


def test_a_training_that_begins_from_the_outputs_of_another_may_share_its_folder():
    def callers():
        first = train(pvc_path="/data")
        say(text=first.outputs["Output"])
        second = train(pvc_path="/data", training_base_model=first.outputs["Output"])
        train(pvc_path="/data", training_base_model=repeat(text=second.outputs["Output"]).output)

    compile_(callers)


def test_of_two_branches_only_one_runs_and_within_one_both_would():
    def branches(wanted):
        with dsl.If(wanted == 1):
            train(pvc_path="/data")
        with dsl.Elif(wanted == 2):
            train(pvc_path="/data")
        with dsl.Else():
            train(pvc_path="/data")

    def within(wanted):
        train(pvc_path="/data")
        with dsl.If(wanted == 1):
            train(pvc_path="/data")

    assert set(compile_(branches, {"wanted": int}).tasks) >= {f"{stage}-3" for stage in STAGES}
    assert "two trainings" in refused(within, {"wanted": int})


def test_osft_pipeline_in_a_callers_pipeline_is_held_to_the_same():
    def loop():
        with dsl.ParallelFor([1, 2]) as seed:
            osft_pipeline(dataset_uri="org/rows", training_seed=seed)

    def twice():
        train(pvc_path=WORKSPACE)
        osft_pipeline(dataset_uri="org/rows")

    assert 'pvc_path=f"/kfp-workspace/{item}"' in refused(loop)
    assert "two trainings" in refused(twice)


def test_two_pipelines_know_nothing_of_each_other():
    for _ in range(2):
        compile_(lambda: train(pvc_path="/data") and None)
