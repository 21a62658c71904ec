"""The stage as a KFP component."""

import inspect
from pathlib import Path

import kfp_osft
from kfp_osft.shared.parameters.evaluation_parameters import EVALUATION_PARAMETERS
from kfp_osft.stages import evaluate_model


def test_it_has_the_declared_parameters_with_their_types_and_defaults():
    signature = inspect.signature(evaluate_model.python_func)
    for declared in EVALUATION_PARAMETERS:
        parameter = signature.parameters[declared.name]
        assert (parameter.annotation, parameter.default) == (declared.type, declared.default)


def test_two_models_are_evaluated_alone(kfp_local, tiny_model, tuned, chat_rows, tmp_path):
    outputs = kfp_local.run(
        evaluate_model,
        pvc_path=str(tmp_path / "pvc"),
        base_model=str(tiny_model),
        tuned_model=str(tuned),
        dataset_path=str(chat_rows),
        evaluation_rows=4,
        max_forgetting=0.5,
    ).outputs

    assert outputs["passed"] is True and Path(outputs["evaluation_path"]).is_file()
    assert outputs["output_evaluation"].metadata["kfp_osft_version"] == kfp_osft.__version__
    assert outputs["output_evaluation"].metadata["held_out_loss_after"] > 0
    assert "<h2>Examples</h2>" in Path(outputs["output_report"].path).read_text()


def test_a_model_that_does_not_exist_is_named(errors_of, tiny_model, tmp_path):
    errors = errors_of(
        evaluate_model, pvc_path=str(tmp_path), base_model=str(tiny_model), tuned_model=str(tmp_path / "none")
    )
    assert errors == [f"tuned_model={tmp_path / 'none'}: not a model folder, it has no config.json"]
