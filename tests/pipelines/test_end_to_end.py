"""The whole path for real: a tiny model is trained through all stages in kfp.local."""

import json
from pathlib import Path

import pytest
from conftest import TINY_TRAINING
from kfp import dsl

from kfp_osft.pipelines import osft_pipeline, train_model

pytestmark = pytest.mark.slow


@dsl.component
def write_rows(source: str, rows: dsl.Output[dsl.Dataset]):
    """Stands for a caller's component that makes the dataset."""
    import shutil

    shutil.copyfile(source, rows.path)


@dsl.component
def count_files(model: dsl.Input[dsl.Model]) -> int:
    """Stands for a caller's component that uses the model."""
    import os

    return len(os.listdir(model.path))


def _loads_and_answers(folder: str) -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of Peru?"}],
                                           add_generation_prompt=True, return_tensors="pt", return_dict=True)
    model = AutoModelForCausalLM.from_pretrained(folder)
    generated = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    return tokenizer.decode(generated[0, prompt["input_ids"].shape[1]:])


def test_the_sub_pipeline_trains_and_train_model_outside_a_pipeline_uses_it_again(
        users_kfp_local: Path, tmp_path: Path, tiny_model: Path, chat_rows: Path, capfd):
    pvc = tmp_path / "pvc"
    training = {"training_base_model": str(tiny_model), **TINY_TRAINING}

    outputs = osft_pipeline(pvc_path=str(pvc), dataset_uri=str(chat_rows), **training).outputs

    assert outputs["Output"] == "training completed"
    assert set(outputs) == {"output_model", "output_metrics", "output_loss_chart", "Output"}
    metrics = outputs["output_metrics"].metadata
    assert metrics["steps"] == 8
    assert metrics["rows_kept"] == 32
    assert metrics["final_loss"] < 5.9
    assert outputs["output_model"].metadata["pvc_model_dir"] == str(pvc / "final_model")
    assert _loads_and_answers(str(pvc / "final_model"))
    assert _loads_and_answers(outputs["output_model"].path)
    assert "<!doctype html" in Path(outputs["output_loss_chart"].path).read_text(encoding="utf-8").lower()
    assert "step 8/8" in capfd.readouterr().out

    # The same arguments through the facade: every stage finds what it made.
    dataset = dsl.Dataset(uri=str(chat_rows))
    again = train_model(pvc_path=str(pvc), dataset=dataset, **training).outputs

    assert again["Output"] == "training completed"
    assert again["output_metrics"].metadata["final_loss"] == metrics["final_loss"]
    output = capfd.readouterr().out
    assert "used again" in output and "step 1/8" not in output


def test_train_model_in_a_callers_pipeline_takes_its_dataset_and_gives_it_the_model(
        users_kfp_local: Path, tmp_path: Path, tiny_model: Path, chat_rows: Path):
    @dsl.pipeline
    def callers(model: str, rows: str, epochs: int = 1) -> int:
        made = write_rows(source=rows)
        task = train_model(pvc_path=str(tmp_path / "pvc"), dataset=made.outputs["rows"], training_base_model=model,
                           **(TINY_TRAINING | {"training_num_epochs": epochs}))
        task.set_caching_options(False)
        return count_files(model=task.outputs["output_model"]).after(task).output

    files = callers(model=str(tiny_model), rows=str(chat_rows)).output

    assert files == len(list((tmp_path / "pvc/final_model").iterdir()))
    run = json.loads((tmp_path / "pvc/final_model/osft_run.json").read_text())
    # What the caller left out was not passed on.
    assert not {"seed", "use_liger", "lr_scheduler", "save_final_checkpoint"} & set(run["osft"])
    assert run["osft"]["num_epochs"] == 1
