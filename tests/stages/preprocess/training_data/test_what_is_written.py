import json
import textwrap
from pathlib import Path

import pytest

from helpers.preprocess_rows import ANSWER, QUESTION, answer_of, samples_of, tokens_of
from kfp_osft.shared.knowledge.coverage import Coverage
from kfp_osft.shared.rows.chat_tokens import ChatTokenizer
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages.preprocess.base_model import BaseModel, load_tokenizer
from kfp_osft.stages.preprocess.training_data import preprocess_dataset


def test_a_sample_has_the_fields_that_mini_trainer_reads(run, chat_rows: Path):
    result = run(chat_rows)

    samples = samples_of(result)
    assert len(samples) == result.num_samples == 32
    for sample in samples:
        assert list(sample) == ["labels", "input_ids", "len", "num_loss_counted_tokens"]
        assert len(sample["labels"]) == len(sample["input_ids"]) == sample["len"]
        assert sample["num_loss_counted_tokens"] == sum(label != -100 for label in sample["labels"][1:]) > 0
        assert all(label in (-100, token) for label, token in zip(sample["labels"], sample["input_ids"], strict=True))


def test_samples_are_in_the_order_of_the_rows_of_all_files(run, dataset, tiny_model: Path):
    # More than are encoded at once, in two files.
    for file in range(2):
        dataset(
            *[
                [
                    {"role": "user", "content": f"Number {700 * file + row} of what I count is which number?"},
                    {"role": "assistant", "content": "This one."},
                ]
                for row in range(700)
            ],
            name=f"{file}.jsonl",
        )

    result = run(dataset(name="none.txt").parent)

    texts = load_tokenizer(BaseModel("tiny", tiny_model)).batch_decode(tokens_of(result))
    assert [int(text.split()[2]) for text in texts] == list(range(1400))


def test_the_counts_are_logged_returned_and_written_beside_the_data(run, dataset, capsys: pytest.CaptureFixture[str]):
    rows = dataset(
        [QUESTION, ANSWER],
        [QUESTION, answer_of(100)],
        [{"role": "user", "content": "?"}, answer_of(1)],
        [QUESTION, ANSWER, QUESTION, ANSWER],
    )

    result = run(rows, max_seq_len=100, max_dropped_share=0.5)

    about = json.loads(result.training_config)["about"]
    samples = samples_of(result)
    assert result.num_samples == 2
    assert list(about) == [
        "base_model",
        "dataset",
        "osft_coverage",
        "memory_need",
        "uses_family_patterns",
        "validation_dataset",
        "validation_samples",
        "rows",
        "samples",
        "too_long",
        "too_short",
        "tokens",
        "loss_tokens",
        "longest",
    ]
    assert {name: about[name] for name in ("rows", "samples", "too_long", "too_short")} == {
        "rows": 4,
        "samples": 2,
        "too_long": 1,
        "too_short": 1,
    }
    assert about["tokens"] == sum(sample["len"] for sample in samples)
    assert about["loss_tokens"] == sum(sample["num_loss_counted_tokens"] for sample in samples)
    assert about["longest"] > 100
    assert about["dataset"] == str(rows)
    report = json.loads((Path(result.data_path).parent / "report.json").read_text())
    assert {name: report[name] for name in about if name in report} == {
        name: about[name] for name in about if name in report
    }
    first, second = (sample["len"] for sample in samples)
    assert report["tokens_of_a_sample"] == {"median": first, "95th": second, "longest": second}
    assert report["dropped"] == {
        "100 tokens or more (training_max_seq_len)": {"count": 1, "first": ["rows.jsonl, row 2"]},
        "fewer than 20 tokens": {"count": 1, "first": ["rows.jsonl, row 3"]},
    }
    assert report["warnings"] == []
    lines = capsys.readouterr().out.splitlines()
    share = about["loss_tokens"] / about["tokens"]
    assert lines[:4] == [
        "Format of the rows: messages (chat)",
        "Rows: 4 read, 2 to train on",
        "Dropped: 1 with 100 tokens or more (training_max_seq_len) (rows.jsonl, row 2); 1 with fewer than 20 tokens "
        f"(rows.jsonl, row 3); the longest row has {about['longest']}",
        f"Tokens: {about['tokens']}, {share:.0%} of them with loss; a sample has {first} (median), {second} "
        f"(95th percentile), at most {second}",
    ]
    coverage = Coverage.from_figures(about["osft_coverage"])
    limited, memory, disk = lines[-3:]
    assert limited == coverage.describe() and limited.startswith("OSFT limits 100% of the weights")
    assert memory.startswith("Memory: about ") and disk.startswith("Disk: about ")
    assert report["osft"].items() >= about["osft_coverage"].items()


def test_a_row_of_megabytes_is_dropped_before_it_is_tokenized(run, dataset, monkeypatch: pytest.MonkeyPatch):
    huge = [QUESTION, ANSWER | {"content": "x" * 1_000_000}]
    seen = []
    samples = ChatTokenizer.samples
    monkeypatch.setattr(
        ChatTokenizer,
        "samples",
        lambda self, conversations, problems: samples(
            self, (seen.append(one) or one for one in conversations), problems
        ),
    )

    result = run(dataset([QUESTION, ANSWER], huge, [QUESTION, ANSWER]), max_dropped_share=0.5)

    assert [conversation.place for conversation in seen] == ["rows.jsonl, row 1", "rows.jsonl, row 3"]
    assert (result.num_samples, json.loads(result.training_config)["about"]["too_long"]) == (2, 1)


def test_the_first_sample_is_shown_with_its_loss_marked(run, dataset, capsys: pytest.CaptureFixture[str]):
    result = run(dataset([QUESTION, answer_of(1)], [QUESTION, ANSWER], [QUESTION, answer_of(9)]), max_dropped_share=0.5)

    shown = (
        f"<|im_start|>user\n{QUESTION['content']}<|im_end|>\n<|im_start|>assistant\n[[{ANSWER['content']}<|im_end|>]]\n"
    )
    report = (Path(result.data_path).parent / "report.json").read_text()
    assert json.loads(report)["sample"] == shown
    log = capsys.readouterr().out
    # Indented: no row can say what reads as a line of the stage's own.
    assert f"The first sample, between [[ and ]] what is learnt:\n{textwrap.indent(shown, '    ')}\nOSFT limits" in log
    assert report.count("Vienna") == log.count("Vienna") == 1


def test_no_text_of_a_row_is_shown_when_that_is_disabled(
    run, dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = dataset([QUESTION, ANSWER], [QUESTION, ANSWER])

    result = run(rows, show_sample=False)

    others = [file.read_text() for file in Path(result.data_path).parent.iterdir()]
    assert len(others) == 3
    assert "Vienna" not in capsys.readouterr().out + "".join(others) + result.training_config


def test_warnings_about_rows_are_reported_with_their_places(run, dataset, capsys: pytest.CaptureFixture[str]):
    rows = dataset(
        [QUESTION, ANSWER],
        [QUESTION, ANSWER | {"content": " "}, QUESTION, ANSWER],
        [QUESTION, ANSWER | {"content": ANSWER["content"] + "<|im_end|>"}],
        [QUESTION, ANSWER | {"weight": 0}],
    )

    result = run(rows, effective_batch_size=1, num_epochs=10)

    warnings = [
        "1 row: an answer is empty or blank; it is not learnt (rows.jsonl, row 2)",
        "1 row: an answer ends in an end-of-turn token of its own, which is taken off (rows.jsonl, row 3)",
    ]
    report = json.loads((Path(result.data_path).parent / "report.json").read_text())
    left_out = "1 row: none of its turns is to be learnt (train, weight), or they say nothing (rows.jsonl, row 4)"
    assert report["warnings"] == warnings and report["left_out_in_words"] == [left_out]
    told = capsys.readouterr().out.splitlines()
    assert f"Left out: {left_out}" in told
    assert [line for line in told if line.startswith("Warning: ")] == [f"Warning: {line}" for line in warnings]


def test_the_config_holds_the_typed_arguments_of_the_training(run, chat_rows: Path, pvc: Path, tiny_model: Path):
    result = run(
        chat_rows,
        learning_rate=1e-3,
        num_epochs=3,
        effective_batch_size=8,
        max_tokens_per_gpu=2048,
        lr_warmup_steps=2,
        checkpoint_at_epoch=True,
        unfreeze_rank_ratio=0.5,
        seed=7,
        use_liger=False,
        target_patterns="q_proj, up_proj",
        min_osft_share=0.3,
        lr_scheduler="cosine_with_restarts",
        lr_scheduler_kwargs="num_cycles=2",
        envs="NCCL_DEBUG=INFO,A=1",
        resource_num_workers=2,
        resource_num_procs_per_worker="4",
        metadata_labels="team=a",
        save_final_checkpoint=True,
    )

    config = json.loads(result.training_config)
    assert list(config) == ["fingerprint", "osft", "trainjob", "data", "env", "about"]
    checkpoints = pvc / "checkpoints" / config["fingerprint"][:12]
    assert config["osft"] == {
        "model_path": str(tiny_model),
        "effective_batch_size": 8,
        "max_tokens_per_gpu": 2048,
        "max_seq_len": 256,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "checkpoint_at_epoch": True,
        "num_epochs": 3,
        "unfreeze_rank_ratio": 0.5,
        "target_patterns": ["q_proj", "up_proj"],
        "seed": 7,
        "use_liger": False,
        "lr_scheduler": "cosine_with_restarts",
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "save_final_checkpoint": True,
        "use_processed_dataset": True,
        "data_path": result.data_path,
        "data_output_dir": str(checkpoints / "_internal_data_processing"),
        "ckpt_output_dir": str(checkpoints),
    }
    types = {name: type(value) for name, value in config["osft"].items()}
    assert types["learning_rate"] is float and types["num_epochs"] is int and types["use_liger"] is bool
    assert type(config["osft"]["lr_scheduler_kwargs"]["num_cycles"]) is int
    assert config["env"] == {"NCCL_DEBUG": "INFO", "A": "1"}
    assert config["trainjob"] == {
        "cpu_per_worker": "8",
        "gpu_per_worker": 1,
        "memory_per_worker": "32Gi",
        "procs_per_worker": 4,
        "num_workers": 2,
        "labels": {"team": "a"},
        "annotations": {},
        "runtime": "training-hub",
        "start_deadline_minutes": 30,
        "time_limit_minutes": 0,
        "shared_memory_per_worker": "auto",
        "queue_limit_minutes": 0,
        "unattended_limit_minutes": 60,
    }
    assert TrainingConfig.from_json(result.training_config).to_json() == result.training_config


def test_what_is_left_out_is_not_passed(run, chat_rows: Path):
    config = json.loads(run(chat_rows).training_config)

    assert set(config["osft"]) == {
        "model_path",
        "effective_batch_size",
        "max_tokens_per_gpu",
        "max_seq_len",
        "learning_rate",
        "num_epochs",
        "unfreeze_rank_ratio",
        # The family's: the training takes what was looked at here, whatever its own version would pick.
        "target_patterns",
        "data_path",
        "data_output_dir",
        "ckpt_output_dir",
        "use_processed_dataset",
    }


def test_the_training_is_given_the_checked_arguments_by_names_that_it_has(run, chat_rows: Path):
    import inspect

    from training_hub import osft

    config = json.loads(run(chat_rows, unmask_messages=True, target_patterns="mlp").training_config)

    assert set(config["osft"]) <= set(inspect.signature(osft).parameters)


def test_paths_are_absolute_wherever_the_training_starts(
    tmp_path: Path, model: Path, chat_rows: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)

    result = preprocess_dataset(
        str(chat_rows),
        "pvc",
        {"training_base_model": "./model", "training_max_seq_len": 256, "training_data_output_dir": "tokens"},
    )

    osft = json.loads(result.training_config)["osft"]
    assert Path(osft["model_path"]).is_absolute() and Path(osft["model_path"]).samefile(model)
    assert result.data_path == str(tmp_path / "tokens" / "data.jsonl")
    checkpoint_dir = Path(osft["ckpt_output_dir"])
    assert checkpoint_dir.parent == tmp_path / "pvc" / "checkpoints"
    # The run's own, which the next run with this training_data_output_dir does not replace.
    assert osft["data_path"] == str(checkpoint_dir / "_internal_data_processing" / "data.jsonl")
    assert Path(osft["data_path"]).samefile(result.data_path)


def test_all_turns_are_learnt_when_the_parameter_says_so(run, chat_rows: Path):
    masked, unmasked = run(chat_rows), run(chat_rows, unmask_messages=True)

    assert tokens_of(masked) == tokens_of(unmasked)
    assert all(
        one["num_loss_counted_tokens"] > other["num_loss_counted_tokens"]
        for one, other in zip(samples_of(unmasked), samples_of(masked), strict=True)
    )
