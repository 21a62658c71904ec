import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_model import write_chat_rows

from kfp_osft.shared import training_data
from kfp_osft.shared.errors import InputError
from kfp_osft.shared.training_config import TrainingConfig
from kfp_osft.shared.training_data import Preprocessed, preprocess_dataset

QUESTION = {"role": "user", "content": "What is the capital of Austria?"}
ANSWER = {"role": "assistant",
          "content": "The capital of Austria is Vienna. It is the seat of the government."}


@pytest.fixture
def pvc(tmp_path: Path) -> Path:
    return tmp_path / "pvc"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be changed."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def run(pvc: Path, tiny_model: Path) -> Callable[..., Preprocessed]:
    """Preprocesses a dataset for the tiny model; parameters without their prefix training_."""

    def preprocess(dataset: Path, **parameters: object) -> Preprocessed:
        parameters = {"base_model": str(tiny_model), "max_seq_len": 256, **parameters}
        return preprocess_dataset(str(dataset), str(pvc),
                                  {f"training_{name}": value for name, value in parameters.items()})

    return preprocess


@pytest.fixture
def error_of(run, pvc: Path) -> Callable[..., str]:
    """The error of a run that must fail and leave nothing that a rerun would trust."""

    def fail(dataset: Path, **parameters: object) -> str:
        with pytest.raises(InputError) as error:
            run(dataset, **parameters)
        left = [file for file in pvc.rglob("*") if file.is_file()] if pvc.is_dir() else []
        assert left == []
        return str(error.value)

    return fail


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows, or lists of messages, to a JSON Lines file."""

    def write(*rows: dict | list, name: str = "rows.jsonl") -> Path:
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(
            json.dumps(row if isinstance(row, dict) else {"messages": row}) + "\n" for row in rows))
        return path

    return write


def samples_of(result: Preprocessed) -> list[dict]:
    return [json.loads(line) for line in Path(result.data_path).read_text().splitlines()]


def tokens_of(result: Preprocessed) -> list[list[int]]:
    return [sample["input_ids"] for sample in samples_of(result)]


def answer_of(words: int) -> dict:
    return {"role": "assistant", "content": " ".join(["Vienna"] * words)}


# What is written and returned


def test_a_sample_has_the_fields_that_mini_trainer_reads(run, chat_rows: Path):
    result = run(chat_rows)

    samples = samples_of(result)
    assert len(samples) == result.num_samples == 32
    for sample in samples:
        assert list(sample) == ["labels", "input_ids", "len", "num_loss_counted_tokens"]
        assert len(sample["labels"]) == len(sample["input_ids"]) == sample["len"]
        assert sample["num_loss_counted_tokens"] == sum(label != -100 for label in sample["labels"][1:]) > 0
        assert all(label in (-100, token)
                   for label, token in zip(sample["labels"], sample["input_ids"], strict=True))


def test_samples_stand_in_the_order_of_the_rows_of_all_files(run, dataset, tiny_model: Path):
    from kfp_osft.shared.base_model import load_tokenizer

    # More than are encoded at once, in two files.
    for file in range(2):
        dataset(*[[{"role": "user", "content": f"Number {700 * file + row} of what I count is which number?"},
                   {"role": "assistant", "content": "This one."}] for row in range(700)],
                name=f"{file}.jsonl")

    result = run(dataset(name="none.txt").parent)

    texts = load_tokenizer(str(tiny_model)).batch_decode(tokens_of(result))
    assert [int(text.split()[2]) for text in texts] == list(range(1400))


def test_the_counts_are_told_and_handed_on(run, dataset, capsys: pytest.CaptureFixture[str]):
    rows = dataset([QUESTION, ANSWER], [QUESTION, answer_of(100)],
                   [{"role": "user", "content": "?"}, answer_of(1)], [QUESTION, ANSWER, QUESTION, ANSWER])

    result = run(rows, max_seq_len=100)

    about = json.loads(result.training_config)["about"]
    samples = samples_of(result)
    assert result.num_samples == 2
    assert {name: about[name] for name in ("rows", "samples", "too_long", "too_short")} == {
        "rows": 4, "samples": 2, "too_long": 1, "too_short": 1}
    assert about["tokens"] == sum(sample["len"] for sample in samples)
    assert about["loss_tokens"] == sum(sample["num_loss_counted_tokens"] for sample in samples)
    assert about["longest"] > 100
    assert about["dataset"] == str(rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == ("Rows: 4 read, 2 to train on, 1 dropped with 100 tokens or more, "
                         "1 dropped with fewer than 20")
    share = about["loss_tokens"] / about["tokens"]
    assert lines[-1] == (f"Tokens: {about['tokens']}, {share:.0%} of them with loss, "
                         f"the longest row {about['longest']}")


def test_the_config_holds_the_typed_arguments_of_the_training(run, chat_rows: Path, pvc: Path,
                                                              tiny_model: Path):
    result = run(chat_rows, learning_rate=1e-3, num_epochs=3, effective_batch_size=8, max_tokens_per_gpu=2048,
                 lr_warmup_steps=2, checkpoint_at_epoch=True, unfreeze_rank_ratio=0.5, seed=7,
                 use_liger=False,
                 target_patterns="q_proj, up_proj", lr_scheduler="cosine_with_restarts",
                 lr_scheduler_kwargs="num_cycles=2", envs="NCCL_DEBUG=INFO,A=1", resource_num_workers=2,
                 resource_num_procs_per_worker="4", metadata_labels="team=a", save_final_checkpoint=True)

    config = json.loads(result.training_config)
    assert list(config) == ["fingerprint", "osft", "trainjob", "env", "about"]
    checkpoints = pvc / "checkpoints" / config["fingerprint"][:12]
    assert config["osft"] == {
        "model_path": str(tiny_model), "effective_batch_size": 8, "max_tokens_per_gpu": 2048,
        "max_seq_len": 256,
        "learning_rate": 1e-3, "warmup_steps": 2, "checkpoint_at_epoch": True, "num_epochs": 3,
        "unfreeze_rank_ratio": 0.5, "target_patterns": ["q_proj", "up_proj"], "seed": 7, "use_liger": False,
        "lr_scheduler": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2},
        "save_final_checkpoint": True, "use_processed_dataset": True, "data_path": result.data_path,
        "data_output_dir": str(checkpoints / "_internal_data_processing"),
        "ckpt_output_dir": str(checkpoints)}
    types = {name: type(value) for name, value in config["osft"].items()}
    assert types["learning_rate"] is float and types["num_epochs"] is int and types["use_liger"] is bool
    assert type(config["osft"]["lr_scheduler_kwargs"]["num_cycles"]) is int
    assert config["env"] == {"NCCL_DEBUG": "INFO", "A": "1"}
    assert config["trainjob"] == {
        "cpu_per_worker": "8", "gpu_per_worker": 1, "memory_per_worker": "32Gi", "procs_per_worker": 4,
        "num_workers": 2, "labels": {"team": "a"}, "annotations": {}, "runtime": "training-hub",
        "start_deadline_minutes": 30, "time_limit_minutes": 0}
    assert TrainingConfig.from_json(result.training_config).to_json() == result.training_config


def test_what_is_left_out_is_not_passed(run, chat_rows: Path):
    config = json.loads(run(chat_rows).training_config)

    assert set(config["osft"]) == {
        "model_path", "effective_batch_size", "max_tokens_per_gpu", "max_seq_len", "learning_rate",
        "num_epochs",
        "unfreeze_rank_ratio", "data_path", "data_output_dir", "ckpt_output_dir", "use_processed_dataset"}


def test_the_training_is_given_the_checked_arguments_by_names_that_it_has(run, chat_rows: Path):
    import inspect

    from training_hub import osft

    config = json.loads(run(chat_rows, unmask_messages=True, target_patterns="q_proj").training_config)

    assert set(config["osft"]) <= set(inspect.signature(osft).parameters)


def test_paths_are_absolute_wherever_the_training_starts(tmp_path: Path, model: Path, chat_rows: Path,
                                                         monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    result = preprocess_dataset(str(chat_rows), "pvc", {
        "training_base_model": "./model", "training_max_seq_len": 256, "training_data_output_dir": "tokens"})

    osft = json.loads(result.training_config)["osft"]
    assert Path(osft["model_path"]).is_absolute() and Path(osft["model_path"]).samefile(model)
    assert osft["data_path"] == result.data_path == str(tmp_path / "tokens" / "data.jsonl")
    assert Path(osft["ckpt_output_dir"]).parent == tmp_path / "pvc" / "checkpoints"


def test_all_turns_are_learnt_when_the_parameter_says_so(run, chat_rows: Path):
    masked, unmasked = run(chat_rows), run(chat_rows, unmask_messages=True)

    assert tokens_of(masked) == tokens_of(unmasked)
    assert all(one["num_loss_counted_tokens"] > other["num_loss_counted_tokens"]
               for one, other in zip(samples_of(unmasked), samples_of(masked), strict=True))


@pytest.mark.parametrize("config", ["", "{", "[]", "{}", '{"osft": {}}', "3"])
def test_a_config_of_somebody_else_is_refused(config: str):
    with pytest.raises(InputError, match="^training_config is not what preprocess returns: "):
        TrainingConfig.from_json(config)


# Bad input


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "dataset file {path} is empty"),
        ([{"text": "x"}], "rows.jsonl, row 1: has no 'messages'; it has 'text'"),
        ([[QUESTION, ANSWER], [QUESTION, {"role": "assistant", "content": None}]],
         "rows.jsonl, row 2: messages[1]: 'content' is null, expected a string"),
        ([[QUESTION, {"role": "assistant", "content": ["x"]}]],
         "rows.jsonl, row 1: messages[1]: 'content' is a list, expected a string"),
        ([[QUESTION, ANSWER], [QUESTION]],
         "rows.jsonl, row 2: has no assistant turn to learn from; its roles are user"),
        ([[{"role": "system", "content": "Be kind."}, QUESTION]],
         "rows.jsonl, row 1: has no assistant turn to learn from; its roles are system, user"),
        ([{"messages": [{"role": "system", "content": "Be kind."}], "unmask": True}],
         "rows.jsonl, row 1: has no assistant turn to learn from; its roles are system"),
        ([[{"role": "pretraining", "content": "no turn"}]],
         "rows.jsonl, row 1: has no assistant turn to learn from; its roles are none"),
        ([[QUESTION, ANSWER | {"content": "\ud83d"}]], "rows.jsonl, row 1: is no text: "),
        ([[QUESTION, answer_of(1)], [QUESTION, answer_of(2)]],
         "dataset {path}: no row is left to train on: 0 of 2 have at least training_max_seq_len=256 tokens "
         "(the longest 19), 2 have fewer than 20"),
        ([[QUESTION, answer_of(500)], [QUESTION, answer_of(2)]],
         "dataset {path}: no row is left to train on: 1 of 2 have at least training_max_seq_len=256 tokens "
         "(the longest "),
    ],
)
def test_rows_that_cannot_be_trained_on_are_told(error_of, dataset, rows: list, message: str):
    path = dataset(*rows)

    assert error_of(path).startswith(message.format(path=path))


def test_a_missing_dataset_is_told(error_of, tmp_path: Path):
    assert error_of(tmp_path / "no.jsonl") == f"dataset {tmp_path / 'no.jsonl'} does not exist"


def test_bad_rows_are_told_together_wherever_they_are(error_of, dataset):
    good = [QUESTION, ANSWER]
    rows = [good] * 1500
    for index in (3, 600, 1400):
        rows[index] = [QUESTION]
    # Of the same batch: the template shows each by itself.
    for index in (700, 701):
        rows[index] = [QUESTION, ANSWER | {"content": "\ud83d"}]

    lines = error_of(dataset(*rows)).splitlines()

    assert {line.split(":")[0] for line in lines} == {
        f"rows.jsonl, row {index + 1}" for index in (3, 600, 700, 701, 1400)}


def test_the_first_ten_of_many_bad_rows_are_told_with_their_count(error_of, dataset):
    lines = error_of(dataset(*[[QUESTION]] * 30)).splitlines()

    assert lines[0].startswith("rows.jsonl, row 1: ") and lines[9].startswith("rows.jsonl, row 10: ")
    assert lines[10:] == ["and 20 more rows like these"]


def test_a_row_longer_than_a_gpu_takes_is_told(error_of, run, dataset):
    rows = dataset([QUESTION, ANSWER], [QUESTION, answer_of(60)], [QUESTION, ANSWER])
    length = max(len(tokens) for tokens in tokens_of(run(rows)))
    shutil.rmtree(Path(run(rows).data_path).parents[3])

    assert error_of(rows, max_tokens_per_gpu=length - 1) == (
        f"rows.jsonl, row 2: has {length} tokens, more than training_max_tokens_per_gpu={length - 1}; raise "
        "that, or lower training_max_seq_len to drop such rows")
    assert run(rows, max_tokens_per_gpu=length).num_samples == 3


def test_a_row_that_is_dropped_may_be_longer_than_a_gpu_takes(run, dataset):
    rows = dataset([QUESTION, ANSWER], [QUESTION, answer_of(60)])

    assert run(rows, max_seq_len=50, max_tokens_per_gpu=50).num_samples == 1


def test_a_row_without_a_token_to_learn_from_is_told(error_of, dataset, model: Path):
    template = "{% for message in messages if message.role == 'user' %}{{ message.content * 5 }}{% endfor %}"
    (model / "chat_template.jinja").write_text(template)

    assert error_of(dataset([QUESTION, ANSWER]), base_model=str(model)) == (
        "rows.jsonl, row 1: has no token to learn from")


def test_a_model_without_a_chat_template_is_told(error_of, chat_rows: Path, model: Path):
    (model / "chat_template.jinja").unlink()

    assert error_of(chat_rows, base_model=str(model)) == (
        f"training_base_model={model}: its tokenizer has no chat template; give an instruction-tuned model, "
        "or add chat_template.jinja to the model folder")


def test_a_conversation_that_the_template_refuses_is_told_with_its_row(error_of, dataset, model: Path):
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + template)
    system = {"role": "system", "content": "Be kind."}

    assert error_of(dataset([QUESTION, ANSWER], [system, QUESTION, ANSWER], [system, QUESTION, ANSWER]),
                    base_model=str(model)).splitlines() == [
        f"rows.jsonl, row {row}: the model's chat template does not take this conversation: no system"
        for row in (2, 3)]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"base_model": "{tmp}"}, "training_base_model={tmp}: is no model folder, it has no config.json"),
        ({"base_model": "/no/model"}, "training_base_model=/no/model: no such folder"),
        ({"target_patterns": "q_proj,porj"}, "training_target_patterns: porj matches no weight matrix of "),
        ({"lr_scheduler": "linear", "lr_scheduler_kwargs": "num_cycles=2"},
         "training_lr_scheduler_kwargs={'num_cycles': 2}: the scheduler linear says: "),
        ({"lr_scheduler_kwargs": "num_cycles=x"},
         "training_lr_scheduler_kwargs={'num_cycles': 'x'}: the scheduler cosine says: "),
        ({"lr_scheduler_kwargs": "num_cycles"}, "training_lr_scheduler_kwargs: an item has no '='"),
        ({"unfreeze_rank_ratio": 1.5}, "training_unfreeze_rank_ratio=1.5 is not allowed"),
        ({"unfreeze_rank_ratio": -0.1}, "training_unfreeze_rank_ratio=-0.1 is not allowed"),
        ({"effective_batch_size": 0}, "training_effective_batch_size=0 is not allowed"),
        ({"max_tokens_per_gpu": 0}, "training_max_tokens_per_gpu=0 is not allowed"),
        ({"max_seq_len": 20}, "training_max_seq_len=20 is not allowed"),
        ({"learning_rate": 0.0}, "training_learning_rate=0.0 is not allowed"),
        ({"learning_rate": float("nan")}, "training_learning_rate=nan is not allowed"),
        ({"envs": "A"}, "training_envs: an item has no '='"),
        ({"metadata_labels": "=x"}, "training_metadata_labels: an item has no key before '='"),
        ({"lerning_rate": 1.0}, "training_lerning_rate is no training parameter"),
    ],
)
def test_a_bad_parameter_is_told_before_the_rows_are_read(error_of, chat_rows: Path, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch, parameters: dict,
                                                          message: str):
    monkeypatch.setattr(training_data, "read_rows", None)
    parameters = {name: value.replace("{tmp}", str(tmp_path)) if isinstance(value, str) else value
                  for name, value in parameters.items()}

    error = error_of(chat_rows, **parameters)

    assert error.startswith(message.replace("{tmp}", str(tmp_path))) and len(error.splitlines()) == 1


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "api_key"])
def test_a_secret_in_the_environment_of_the_training_is_refused_and_not_repeated(error_of, chat_rows: Path,
                                                                                name: str):
    error = error_of(chat_rows, envs=f"A=1,{name}=hush")

    assert error.startswith(f"training_envs: '{name}' looks like a secret") and "hush" not in error


@pytest.mark.parametrize("parameter", ["pvc_path", "training_data_output_dir"])
@pytest.mark.parametrize("place", ["{file}/below", "/proc/pvc", "/proc/self/pvc"])
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, tiny_model: Path, chat_rows: Path,
                                                 place: str, parameter: str):
    (tmp_path / "file").touch()
    folder = place.format(file=tmp_path / "file")
    training = {"training_base_model": str(tiny_model)}
    if parameter != "pvc_path":
        training[parameter] = folder

    with pytest.raises(InputError) as error:
        preprocess_dataset(str(chat_rows), folder if parameter == "pvc_path" else str(tmp_path / "pvc"),
                           training)

    assert str(error.value).startswith(f"{parameter}={folder} cannot be written: ")


@pytest.mark.parametrize("name", ["data.jsonl", "manifest.json"])
def test_an_output_folder_where_the_dataset_would_be_overwritten_is_refused(run, dataset, name: str):
    rows = dataset([QUESTION, ANSWER], name=name)
    before = rows.read_bytes()

    with pytest.raises(InputError) as error:
        run(rows, data_output_dir=str(rows.parent))

    assert str(error.value) == (
        f"training_data_output_dir={rows.parent}: its data.jsonl or manifest.json is the dataset itself, "
        "which would be overwritten; give another folder")
    assert rows.read_bytes() == before


@pytest.mark.parametrize("below", ["", "tokens"])
def test_an_output_folder_in_the_dataset_folder_is_refused(run, dataset, below: str):
    folder = dataset([QUESTION, ANSWER]).parent

    with pytest.raises(InputError) as error:
        run(folder, data_output_dir=str(folder / below))

    assert str(error.value) == (
        f"training_data_output_dir={folder / below}: lies in the dataset folder {folder}, so that the next "
        "run would read its data.jsonl as rows; give another folder")
    assert [file.name for file in folder.rglob("*") if file.is_file()] == ["rows.jsonl"]


def test_a_file_of_rows_may_lie_beside_the_output(run, dataset):
    rows = dataset([QUESTION, ANSWER])

    assert run(rows, data_output_dir=str(rows.parent)).data_path == str(rows.parent / "data.jsonl")
    assert run(rows, data_output_dir=str(rows.parent)).num_samples == 1


def test_a_value_that_will_not_run_as_given_is_a_warning(run, chat_rows: Path,
                                                         capsys: pytest.CaptureFixture[str]):
    run(chat_rows, fsdp_sharding_strategy="NO_SHARD", osft_memory_efficient_init=False)

    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == 2
    assert "training_fsdp_sharding_strategy=NO_SHARD has no effect" in warnings[1]


# A dataset that holds tokens already

IDS = list(range(5, 35))


def tokens(**changes: object) -> dict:
    return {"input_ids": IDS, "labels": [-100] * 10 + IDS[10:], **changes}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_processed_dataset_is_taken_as_it_is(run, dataset, form: str):
    rows = [tokens(len=30, other="x"), tokens(labels=IDS), tokens(input_ids=IDS[:19], labels=IDS[:19])]
    path = dataset(*rows)
    if form == "parquet":
        import pyarrow
        from pyarrow import parquet

        path = path.with_suffix(".parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    result = run(path, use_processed_dataset=True)

    assert samples_of(result) == [
        {"labels": tokens()["labels"], "input_ids": IDS, "len": 30, "num_loss_counted_tokens": 20},
        {"labels": IDS, "input_ids": IDS, "len": 30, "num_loss_counted_tokens": 29}]
    assert json.loads(result.training_config)["about"]["too_short"] == 1


def test_a_processed_dataset_needs_no_chat_template(run, dataset, model: Path):
    (model / "chat_template.jinja").unlink()

    assert run(dataset(tokens()), base_model=str(model), use_processed_dataset=True).num_samples == 1


def test_what_was_written_can_be_given_as_a_processed_dataset(run, chat_rows: Path, tmp_path: Path):
    first = Path(shutil.copy(run(chat_rows).data_path, tmp_path / "first.jsonl"))

    assert Path(run(first, use_processed_dataset=True).data_path).read_bytes() == first.read_bytes()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [QUESTION, ANSWER]},
         "'input_ids' is missing or no list of integers (training_use_processed_dataset is set)"),
        ({"input_ids": IDS},
         "'labels' is missing or no list of integers (training_use_processed_dataset is set)"),
        (tokens(labels=None),
         "'labels' is missing or no list of integers (training_use_processed_dataset is set)"),
        (tokens(input_ids="5 6 7"), "'input_ids' is missing or no list of integers"),
        (tokens(input_ids=[*IDS[:-1], 1.5]), "'input_ids' is missing or no list of integers"),
        (tokens(input_ids=[*IDS[:-1], True]), "'input_ids' is missing or no list of integers"),
        (tokens(labels=[*IDS[:-1], None]), "'labels' is missing or no list of integers"),
        (tokens(labels=IDS[:-1]), "has 30 input_ids and 29 labels"),
        (tokens(input_ids=[*IDS[:-1], 100_000]), "an id of input_ids is not in the model's vocabulary of "),
        (tokens(input_ids=[*IDS[:-1], -1]), "an id of input_ids is not in the model's vocabulary of "),
        (tokens(labels=[*IDS[:-1], 100_000]), "a label is neither -100 nor in the model's vocabulary of "),
        (tokens(labels=[*IDS[:-1], -1]), "a label is neither -100 nor in the model's vocabulary of "),
        (tokens(labels=[-100] * 30), "has no token to learn from"),
        # A causal model predicts nothing for the first token.
        (tokens(labels=[5] + [-100] * 29), "has no token to learn from"),
    ],
)
def test_a_processed_row_that_cannot_be_trained_on_is_told(error_of, dataset, row: dict, message: str):
    assert error_of(dataset(tokens(), row),
                    use_processed_dataset=True).startswith(f"rows.jsonl, row 2: {message}")


# A rerun


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with each run that tokenizes."""
    runs: list[str] = []
    load_tokenizer = training_data.load_tokenizer

    def load(base_model: str) -> object:
        runs.append(base_model)
        return load_tokenizer(base_model)

    monkeypatch.setattr(training_data, "load_tokenizer", load)
    return runs


def test_a_rerun_uses_the_data_again(run, chat_rows: Path, tokenized: list, tmp_path: Path,
                                     capsys: pytest.CaptureFixture[str]):
    first = run(chat_rows)
    data = Path(first.data_path)
    before = data.read_bytes(), data.stat().st_mtime_ns
    told = capsys.readouterr().out.splitlines()

    assert run(chat_rows) == first
    assert (data.read_bytes(), data.stat().st_mtime_ns) == before and len(tokenized) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"The data in {data.parent} was made from the same rows, model and parameters: used again", *told]
    # The same rows elsewhere, as another copy of an artifact.
    (tmp_path / "copy").mkdir()
    copy = Path(shutil.copy(chat_rows, tmp_path / "copy" / chat_rows.name))
    assert run(copy).data_path == first.data_path and len(tokenized) == 1


def test_another_training_on_the_same_data_uses_it_again(run, chat_rows: Path, tokenized: list,
                                                         tmp_path: Path):
    folder = str(tmp_path / "tokens")
    first = run(chat_rows, data_output_dir=folder)

    second = run(chat_rows, data_output_dir=folder, learning_rate=1e-3, num_epochs=5, envs="A=1")

    assert len(tokenized) == 1 and second.data_path == first.data_path
    configs = [json.loads(result.training_config) for result in (first, second)]
    assert configs[0]["osft"]["ckpt_output_dir"] != configs[1]["osft"]["ckpt_output_dir"]
    assert configs[0]["about"] == configs[1]["about"]


@pytest.mark.parametrize("changed", ["a row", "a file more", "the template", "max_seq_len",
                                     "unmask_messages"])
def test_other_data_models_and_lengths_are_tokenized_again(run, dataset, tmp_path: Path, model: Path,
                                                           tokenized: list, changed: str):
    rows = dataset(*[[QUESTION, ANSWER]] * 3).parent
    parameters = {"base_model": str(model), "data_output_dir": str(tmp_path / "tokens")}
    first = run(rows, **parameters)
    before, fingerprint = Path(first.data_path).read_bytes(), json.loads(first.training_config)["fingerprint"]

    if changed == "a row":
        dataset(*[[QUESTION, ANSWER]] * 2,
                [QUESTION, ANSWER | {"content": ANSWER["content"].replace("V", "W")}])
    elif changed == "a file more":
        dataset([QUESTION, ANSWER], name="more.jsonl")
    elif changed == "the template":
        file = model / "chat_template.jinja"
        file.write_text(file.read_text().replace("message['content'] +", "message['content'] + '!' +"))
    elif changed == "max_seq_len":
        parameters["max_seq_len"] = 255
    else:
        parameters[changed] = True
    second = run(rows, **parameters)

    assert len(tokenized) == 2 and second.data_path == first.data_path
    assert json.loads(second.training_config)["fingerprint"] != fingerprint
    # Other lengths change nothing in these rows; all else does.
    assert (Path(second.data_path).read_bytes() == before) == (changed == "max_seq_len")


@pytest.mark.parametrize("broken", ["data is gone", "manifest is gone", "manifest is cut",
                                    "manifest of another"])
def test_data_without_its_manifest_is_made_again(run, chat_rows: Path, tokenized: list, broken: str):
    first = run(chat_rows)
    data, manifest = Path(first.data_path), Path(first.data_path).parent / "manifest.json"
    before, text = data.read_bytes(), manifest.read_text()

    if broken == "data is gone":
        data.unlink()
    else:
        data.write_bytes(b"cut")
        manifest.unlink()
    if broken == "manifest is cut":
        manifest.write_text(text[:40])
    elif broken == "manifest of another":
        manifest.write_text(json.dumps(json.loads(text) | {"fingerprint": "0" * 64}))

    assert run(chat_rows) == first and len(tokenized) == 2
    assert data.read_bytes() == before and manifest.read_text() == text


def test_after_a_failure_the_earlier_data_is_not_taken_for_the_new_rows_nor_kept_for_the_old(
        run, dataset, tmp_path: Path, tokenized: list):
    folder = str(tmp_path / "tokens")
    good = dataset([QUESTION, ANSWER])
    first = run(good, data_output_dir=folder)
    before = Path(first.data_path).read_bytes()

    for _ in range(2):
        with pytest.raises(InputError):
            run(dataset([QUESTION], name="bad.jsonl"), data_output_dir=folder)
        assert not (tmp_path / "tokens" / "manifest.json").exists()

    assert run(good, data_output_dir=folder) == first and len(tokenized) == 4
    assert Path(first.data_path).read_bytes() == before


# A run that is killed

# Stops at the named moment and says so, until it is killed.
CHILD = """
import itertools, os, sys, time
from kfp_osft.shared import publish, training_data

def stop(*arguments, **more):
    print("here", flush=True)
    time.sleep(600)

def stop_after(count, function):
    calls = itertools.count(1)
    return lambda *arguments: stop() if next(calls) > count else function(*arguments)

pvc, dataset, model, moment, count = sys.argv[1:]
if moment == "sample":
    training_data._json_line = stop_after(int(count), training_data._json_line)
elif moment == "rename":
    os.replace = stop_after(int(count), os.replace)
else:
    training_data.write_manifest = stop
training_data.preprocess_dataset(dataset, pvc, {"training_base_model": model, "training_max_seq_len": 256})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "count"),
    [("sample", 0), ("sample", 1000), ("sample", 4999), ("rename", 0), ("write_manifest", 0), ("rename", 1)],
    ids=["before the first sample", "among the samples", "before the last sample",
         "before the data is in its place", "before the manifest is written",
         "before the manifest is in its place"],
)
def test_a_rerun_after_a_kill_makes_the_same_bytes_as_an_undisturbed_run(
        run, tmp_path: Path, pvc: Path, tiny_model: Path, tokenized: list, moment: str, count: int):
    rows = write_chat_rows(tmp_path / "rows.jsonl", rows=5000)
    undisturbed = run(rows)
    data, manifest = Path(undisturbed.data_path), Path(undisturbed.data_path).parent / "manifest.json"
    before = data.read_bytes(), manifest.read_bytes()
    shutil.rmtree(pvc)

    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(pvc), str(rows), str(tiny_model), moment, str(count)],
        stdout=subprocess.PIPE, text=True)
    assert "here\n" in iter(child.stdout.readline, "")
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL

    assert not manifest.exists()
    assert data.exists() == (moment == "write_manifest" or (moment, count) == ("rename", 1))
    assert run(rows) == undisturbed and len(tokenized) == 2
    assert (data.read_bytes(), manifest.read_bytes()) == before


def test_the_same_rows_under_another_name_are_the_same_training(tmp_path, tiny_model, chat_rows):
    training = {"training_base_model": str(tiny_model)}
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(chat_rows.read_bytes())

    first = preprocess_dataset(str(chat_rows), str(tmp_path / "pvc"), training)
    second = preprocess_dataset(str(copy), str(tmp_path / "pvc"), training)

    assert first.data_path == second.data_path
