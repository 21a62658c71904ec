"""The stage as a KFP component."""

import inspect
from pathlib import Path

import trustme

import kfp_osft
from fakes.eval_hub import FakeEvalHub
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


def test_an_eval_hub_is_trusted_by_the_bundle_of_all_clients_and_gets_a_token_that_is_not_shown(
    kfp_local, tiny_model, tuned, tmp_path, monkeypatch
):
    authority, certificate = trustme.CA(), tmp_path / "certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("OSFT_CA_BUNDLE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("EVAL_HUB_TOKEN", "a-token-of-some-length")
    monkeypatch.setenv("EVAL_HUB_TOKENIZER", "org/base")

    with FakeEvalHub(certificate=str(certificate), states=["completed"]) as hub:
        result = kfp_local.run(
            evaluate_model,
            pvc_path=str(tmp_path / "pvc"),
            base_model=str(tiny_model),
            tuned_model=str(tuned),
            benchmarks="arc_easy",
            eval_hub_url=hub.url,
            max_forgetting=0.5,
        )

    metadata = result.outputs["output_evaluation"].metadata
    assert metadata["arc_easy_acc_norm_before"] == metadata["arc_easy_acc_norm_after"] == 0.25
    assert {headers["Authorization"] for _, _, headers, _ in hub.requests} == {"Bearer a-token-of-some-length"}
    page = Path(result.outputs["output_report"].path).read_text()
    shown = result.log + page + Path(result.outputs["evaluation_path"]).read_text()
    assert "a-token-of-some-length" not in shown and hub.asked("POST")[0][1]["model"]["url"] not in shown
    assert "arc_easy" in page
