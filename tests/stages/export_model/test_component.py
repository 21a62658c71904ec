from pathlib import Path

import pytest

from helpers.trained_folder import make_trained_folder
from kfp_osft.stages import export_model
from pytest_kfp_local import KfpLocal


@pytest.mark.slow
def test_the_model_is_on_the_pvc_and_in_the_artifact_and_generates(
    kfp_local: KfpLocal, tmp_path: Path, tiny_model: Path
):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pvc = tmp_path / "pvc"
    folder = make_trained_folder(pvc / "checkpoints" / "x", tiny_model)

    outputs = kfp_local.run(export_model, checkpoint_dir=str(folder), pvc_path=str(pvc)).outputs

    assert outputs["Output"] == "training completed"
    artifact = outputs["output_model"]
    assert artifact.metadata["model_name"] == "model-osft"
    assert artifact.metadata["artifact_path"] == artifact.path
    assert artifact.metadata["pvc_model_dir"] == str(pvc / "final_model")
    for place in (pvc / "final_model", Path(artifact.path)):
        tokenizer = AutoTokenizer.from_pretrained(place)
        model = AutoModelForCausalLM.from_pretrained(place)
        assert model.config.use_cache
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        generated = model.generate(**prompt, max_new_tokens=4, do_sample=False)
        assert generated.shape[1] > prompt["input_ids"].shape[1]


def test_without_a_checkpoint_it_says_what_makes_one(errors_of, tmp_path: Path):
    errors = errors_of(export_model, checkpoint_dir=str(tmp_path), pvc_path=str(tmp_path))

    assert errors == [
        f"there is no complete checkpoint in {tmp_path}/hf_format; training_save_final_checkpoint or "
        "training_checkpoint_at_epoch makes the training save one"
    ]
    assert not (tmp_path / "final_model").exists()
