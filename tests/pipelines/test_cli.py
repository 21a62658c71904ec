import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kfp_osft
from kfp_osft.pipelines.cli import main
from kfp_osft.pipelines.local.before import PlannedRun
from kfp_osft.shared.files.atomic import writable_folder
from kfp_osft.shared.parameters.contract_parameters import TRAINING_PARAMETERS
from kfp_osft.shared.reporting.errors import InputError, TrainingError

COMMAND = Path(sys.executable).with_name("kfp-osft")
RUN = ["run", "--dataset", "org/rows"]

# What a person types after an option, and what the training parameter is then.
TYPED = {
    "training_base_model": ("org/model", "org/model"),
    "training_effective_batch_size": ("16", 16),
    "training_max_tokens_per_gpu": ("2048", 2048),
    "training_max_seq_len": ("256", 256),
    "training_learning_rate": ("1e-4", 1e-4),
    "training_lr_warmup_steps": ("5", 5),
    "training_checkpoint_at_epoch": ("true", True),
    "training_num_epochs": ("3", 3),
    "training_data_output_dir": ("tokens", "tokens"),
    "training_envs": ("A=1,B=x=y", "A=1,B=x=y"),
    "training_resource_cpu_per_worker": ("500m", "500m"),
    "training_resource_gpu_per_worker": ("0", 0),
    "training_resource_memory_per_worker": ("4Gi", "4Gi"),
    "training_resource_num_procs_per_worker": ("2", "2"),
    "training_resource_num_workers": ("2", 2),
    "training_metadata_labels": ("team=nlp", "team=nlp"),
    "training_metadata_annotations": ("note=x", "note=x"),
    "training_unfreeze_rank_ratio": ("0.5", 0.5),
    "training_osft_memory_efficient_init": ("False", False),
    "training_target_patterns": ("q_proj,v_proj", "q_proj,v_proj"),
    "training_seed": ("7", 7),
    "training_use_liger": ("TRUE", True),
    "training_use_processed_dataset": ("true", True),
    "training_unmask_messages": ("false", False),
    "training_lr_scheduler": ("linear", "linear"),
    "training_lr_scheduler_kwargs": ("num_cycles=2", "num_cycles=2"),
    "training_save_final_checkpoint": ("false", False),
    "training_fsdp_sharding_strategy": ("NO_SHARD", "NO_SHARD"),
}


def short(name: str) -> str:
    """The option of a training parameter."""
    return "--" + name.removeprefix("training_").replace("_", "-")


def full(name: str) -> str:
    return "--" + name.replace("_", "-")


@pytest.fixture(autouse=True)
def planned(monkeypatch):
    """Rows and model are not looked for, and nothing is chosen."""
    monkeypatch.setattr("kfp_osft.pipelines.command.run.check_reachable", lambda rows, training: None)
    monkeypatch.setattr("kfp_osft.pipelines.command.run.example_model", lambda folder: None)

    def plan_run(output_dir, rows, given, example_model, choose, quiet):
        writable_folder("--output-dir", str(output_dir))
        return PlannedRun(dict(given), rows["dataset_uri"], rows["validation_uri"])

    monkeypatch.setattr("kfp_osft.pipelines.local.before.plan_run", plan_run)


@pytest.fixture
def refused(capsys):
    """Runs the command, which must refuse in one line on stderr with exit code 2; returns the line."""

    def run(*arguments: str) -> str:
        try:
            code = main(arguments)
        except SystemExit as error:
            code = error.code
        output = capsys.readouterr()
        assert (code, output.out) == (2, "")
        (line,) = output.err.splitlines()
        return line

    return run


@pytest.fixture
def started(monkeypatch):
    """Takes the place of the local run; returns the calls with their arguments."""
    calls = []

    def run_locally(
        output_dir, dataset, dataset_split, training, quiet, validation_uri, validation_uri_split, evaluation
    ):
        calls.append(
            {
                "output_dir": output_dir,
                "dataset": dataset,
                "dataset_split": dataset_split,
                "training": training,
                "quiet": quiet,
                "validation_uri": validation_uri,
                "validation_uri_split": validation_uri_split,
            }
        )
        raise TrainingError("stopped")

    monkeypatch.setattr("kfp_osft.pipelines.local.run.run_locally", run_locally)
    return calls


COMMANDS = "demo, run, evaluate, sequence, check, compare, ask, push, compile, manifest, image, runtime"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "kfp-osft: no command is given; kfp-osft --help shows them"),
        (["--verbose"], "kfp-osft: unknown option --verbose; did you mean --version?"),
        (["runn"], "kfp-osft: unknown command runn; did you mean run?"),
        (["xyz"], f"kfp-osft: unknown command xyz; the commands are {COMMANDS}"),
        (["demo", "more"], "kfp-osft demo: unexpected argument 'more'"),
        (["demo", "--output-dir"], "kfp-osft demo: argument --output-dir: expected one argument"),
        (["compile", "--folder", "x"], "kfp-osft compile: unknown option --folder"),
        (["compile", "--outputdir=x"], "kfp-osft compile: unknown option --outputdir; did you mean --output-dir?"),
        (["run"], "kfp-osft run: no rows to train on; give a file, as in: kfp-osft run rows.jsonl"),
        ([*RUN, "--epochz", "1"], "kfp-osft run: unknown option --epochz; did you mean --epochs?"),
        ([*RUN, "--num-epoch", "1"], "kfp-osft run: unknown option --num-epoch; did you mean --num-epochs?"),
        ([*RUN, "--learning_rate=1"], "kfp-osft run: unknown option --learning_rate; did you mean --learning-rate?"),
        ([*RUN, "--model", "m"], "kfp-osft run: unknown option --model; did you mean --base-model?"),
        ([*RUN, "--config", "c"], "kfp-osft run: unknown option --config; did you mean kfp-osft run config.yaml?"),
        (["compile", "--config", "c"], "kfp-osft compile: unknown option --config"),
        (["ask", "a", "--out", "m"], "kfp-osft ask: unknown option --out"),
        ([*RUN, "--num-epochs"], "kfp-osft run: --num-epochs needs a value"),
        (
            ["evaluate", "a", "b", "--min-improvement", "some"],
            "kfp-osft evaluate: --min-improvement some: not a number",
        ),
        ([*RUN, "--epochs", "two"], "kfp-osft run: --epochs two: not an integer"),
        ([*RUN, "--training-num-epochs", "1.5"], "kfp-osft run: --training-num-epochs 1.5: not an integer"),
        ([*RUN, "--lr", "fast"], "kfp-osft run: --lr fast: not a number"),
        ([*RUN, "--use-liger=maybe"], "kfp-osft run: --use-liger maybe: not true or false"),
        ([*RUN, "rows.jsonl"], "kfp-osft run: two datasets are given: rows.jsonl, and --dataset org/rows"),
        (["run", "a.jsonl", "b.jsonl"], "kfp-osft run: one dataset at a time; given are a.jsonl and b.jsonl"),
    ],
)
def test_an_option_that_cannot_be_read_is_refused_in_one_line(refused, arguments, line):
    assert refused(*arguments) == line


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--num-epochs", "0"], "--num-epochs=0 is not allowed"),
        (["--epochs", "0"], "--epochs=0 is not allowed"),
        (["--training-num-epochs", "0"], "--training-num-epochs=0 is not allowed"),
        (["--learning-rate", "nan"], "--learning-rate=nan is not allowed"),
        (["--lr=-1e-5"], "--lr=-1e-05 is not allowed"),
        (["--batch-size", "0"], "--batch-size=0 is not allowed"),
        (["--unfreeze-rank-ratio", "2"], "--unfreeze-rank-ratio=2.0 is not allowed"),
        (["--lr-scheduler", "cosin"], "--lr-scheduler='cosin' is not allowed"),
        (["--fsdp-sharding-strategy", "ALL"], "--fsdp-sharding-strategy='ALL' is not allowed"),
        (["--envs", "A"], "--envs: an item has no '='"),
        (["--envs", "HF_TOKEN=hf_x"], "--envs: 'HF_TOKEN' looks like a secret"),
        (["--base-model", ""], "--base-model='' is not allowed"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_the_name_that_was_typed(refused, tmp_path, options, problem):
    output_dir = tmp_path / "output"
    line = refused(*RUN, "--output-dir", str(output_dir), *options)
    assert line.startswith(f"kfp-osft run: {problem}")
    assert not output_dir.exists()


def test_several_problems_are_one_line(refused):
    line = refused(*RUN, "--num-epochs", "0", "--seed", "-5")
    assert "--num-epochs=0 is not allowed" in line and "; --seed=-5 is not allowed" in line


@pytest.mark.parametrize("command", [["compile"], ["demo"], RUN])
def test_an_output_folder_that_cannot_be_written_is_refused(refused, tmp_path, command):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "output"
    line = refused(*command, "--output-dir", str(folder))
    assert line == f"kfp-osft {command[0]}: --output-dir={folder} cannot be written: Not a directory"


@pytest.mark.skipif(not COMMAND.exists(), reason="kfp-osft is not installed beside this interpreter")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run"], "kfp-osft run: no rows to train on; give a file, as in: kfp-osft run rows.jsonl"),
        (
            [*RUN, "--seed", "-5"],
            "kfp-osft run: --seed=-5 is not allowed; allowed: an integer from 0 to 4294967295",
        ),
    ],
)
def test_the_installed_command_refuses_in_the_same_way(tmp_path, arguments, line):
    process = subprocess.run([COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (2, "", f"{line}\n")
    assert list(tmp_path.iterdir()) == []


def test_the_module_is_the_command_too(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "kfp_osft.pipelines.cli", "run"], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 2 and process.stderr.count("\n") == 1


def test_every_training_parameter_has_an_option():
    assert set(TYPED) == {parameter.name for parameter in TRAINING_PARAMETERS}


@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize("option", [short, full])
def test_an_option_reaches_the_run_with_the_parameters_type(started, tmp_path, option, name):
    text, value = TYPED[name]
    main([*RUN, "--output-dir", str(tmp_path), option(name), text])
    (call,) = started
    assert call["training"] == {name: value}
    assert type(call["training"][name]) is type(value)


def test_without_options_nothing_is_passed_and_the_pipelines_defaults_hold(started):
    main(RUN)
    assert started == [
        {
            "output_dir": Path("kfp-osft-output/run"),
            "dataset": "org/rows",
            "dataset_split": "train",
            "training": {},
            "quiet": False,
            "validation_uri": "",
            "validation_uri_split": "validation",
        }
    ]


def test_the_dataset_options_reach_the_run(started, tmp_path):
    main(["run", "--dataset", "org/rows", "--dataset-split", "validation", "--output-dir", str(tmp_path)])
    assert (started[0]["dataset"], started[0]["dataset_split"], started[0]["output_dir"]) == (
        "org/rows",
        "validation",
        tmp_path,
    )


def test_the_options_of_rows_reach_the_run(started):
    main(
        [
            *RUN,
            *("--dataset-columns", "user=question,assistant=answer"),
            *("--dataset-subset", "100"),
            *("--validation-split", "0.1"),
            *("--validation-uri", "org/rows", "--validation-uri-split", "test"),
        ]
    )
    assert started[0]["training"] == {
        "dataset_columns": "user=question,assistant=answer",
        "dataset_subset": 100,
        "training_validation_split": 0.1,
    }
    assert (started[0]["validation_uri"], started[0]["validation_uri_split"]) == ("org/rows", "test")


def test_quiet_reaches_the_run(started):
    main([*RUN, "--quiet"])
    assert started[0]["quiet"] is True


def test_a_base_model_folder_is_passed_by_its_whole_path(started, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    main([*RUN, "--base-model", "model"])
    assert started[0]["training"] == {"training_base_model": str(tmp_path.resolve() / "model")}


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("first\nsecond"), 2, "kfp-osft run: first; second"),
        (TrainingError("out of memory\nat step 3"), 1, "kfp-osft run: out of memory; at step 3"),
        (
            TrainingError("exit code 1.\nIts last lines:\n  a\n  b\nFull output: training.log"),
            1,
            "kfp-osft run: exit code 1. Full output: training.log",
        ),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            1,
            "kfp-osft run: torch is not installed; running on this computer needs kfp-osft[local]",
        ),
        (KeyboardInterrupt(), 130, "kfp-osft run: interrupted; the next run reuses the stages that completed"),
    ],
)
def test_how_a_run_ends_is_one_line_and_an_exit_code(monkeypatch, capsys, error, code, line):
    def run_locally(*arguments):
        raise error

    monkeypatch.setattr("kfp_osft.pipelines.local.run.run_locally", run_locally)
    assert main(RUN) == code
    assert capsys.readouterr().err.strip() == line


def test_an_interrupted_sequence_says_what_stays(monkeypatch, capsys, tmp_path):
    def read_plan(file):
        raise KeyboardInterrupt

    monkeypatch.setattr("kfp_osft.pipelines.sequence.plan.read_plan", read_plan)
    assert main(["sequence", "tasks.yaml"]) == 130
    assert "the next run reuses the stages that completed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [RUN, ["evaluate", "org/a", "org/b"], ["check", "org/a", "org/b"], ["ask", "org/a"], ["sequence", "tasks.yaml"]],
)
def test_every_command_trusts_private_authorities(refused, monkeypatch, command):
    monkeypatch.setenv("OSFT_CA_BUNDLE", "/no/ca.pem")
    assert "OSFT_CA_BUNDLE=/no/ca.pem in the environment: there is no such file" in refused(*command)


def test_an_error_of_the_program_itself_keeps_its_traceback_without_secrets(monkeypatch, capsys):
    monkeypatch.setenv("DB_PASS", "canary-of-a-password")

    def run_locally(*arguments):
        raise ZeroDivisionError("canary-of-a-password")

    monkeypatch.setattr("kfp_osft.pipelines.local.run.run_locally", run_locally)
    assert main(RUN) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.endswith("ZeroDivisionError: ***\n")


def test_compile_writes_the_pipeline_and_the_stages_and_prints_their_paths(tmp_path, capsys):
    assert main(["compile", "--output-dir", str(tmp_path / "yaml")]) == 0
    files = sorted((tmp_path / "yaml").iterdir())
    assert [file.name for file in files] == sorted(
        f"{name}.yaml"
        for name in (
            "kfp-osft",
            "kfp-osft-evaluate",
            "osft_pipeline",
            "resolve_dataset",
            "preprocess",
            "launch_trainjob",
            "collect_metrics",
            "render_loss_chart",
            "export_model",
            "evaluate_model",
        )
    )
    assert sorted(capsys.readouterr().out.splitlines()) == [str(file) for file in files]


def test_compile_with_an_evaluation_writes_a_pipeline_that_has_it(tmp_path):
    command = ["compile", "--output-dir", str(tmp_path), "--evaluate", "--evaluation-memory", "48Gi"]
    assert main(command) == 0
    text = (tmp_path / "osft_pipeline.yaml").read_text()
    assert "comp-evaluate-model:" in text and "resourceMemoryLimit: 48Gi" in text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--evaluation-cpu", "4"], "--evaluation-cpu needs --evaluate or --sequence"),
        (["--evaluate", "--evaluation-memory", "48GB"], "--evaluation-memory=48GB is not a Kubernetes quantity"),
        (["--evaluate", "--evaluation-gpus", "-1"], "--evaluation-gpus=-1 is not allowed"),
        (["--evaluate", "--evaluation-gpus", "1"], "--evaluation-gpus needs --evaluation-image"),
        (["--evaluate", "--evaluation-image", "a b"], "the image 'a b' is not a container image's name"),
    ],
)
def test_a_pod_of_the_evaluation_that_cannot_be_is_refused(tmp_path, capsys, options, problem):
    assert main(["compile", "--output-dir", str(tmp_path), *options]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "shows"),
    [
        ([], ["demo", "run", "check", "compile", "manifest"]),
        (["demo"], ["--output-dir", "kfp-osft-output/demo", "--quiet"]),
        (["run"], ["--dataset", "--dataset-split", "--output-dir", "--quiet", "--dry-run"]),
        (["check"], ["BASE", "TUNED", "--unfreeze-rank-ratio", "--matrices", "--max-minutes"]),
        (["compile"], ["--output-dir", "(default: compiled)"]),
    ],
)
def test_help_shows_the_commands_and_their_options(capsys, command, shows):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    output = capsys.readouterr()
    assert (end.value.code, output.err) == (0, "")
    assert [text for text in shows if text not in output.out] == []


def test_help_of_run_shows_the_parameters_that_do_something_on_this_computer(capsys, monkeypatch):
    # Wide enough that no word is broken in two.
    monkeypatch.setenv("COLUMNS", "10000")
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    output = capsys.readouterr().out
    text = " ".join(output.split())
    hidden = [
        parameter.name for parameter in TRAINING_PARAMETERS if not re.search(rf"{short(parameter.name)}[ ,]", text)
    ]
    assert hidden == [
        "training_resource_cpu_per_worker",
        "training_resource_gpu_per_worker",
        "training_resource_memory_per_worker",
        "training_resource_num_workers",
        "training_metadata_labels",
        "training_metadata_annotations",
        "training_osft_memory_efficient_init",
        "training_fsdp_sharding_strategy",
    ]
    assert "--num-epochs, --epochs N Passes over the data. Allowed: an integer of at least 1. Default: 1." in text
    # Not the contract's, but as useful here as on a cluster.
    assert "--export-uri TEXT Where the model is pushed in addition" in text
    assert "training_" not in text
    # The basic ones first, each group with its title.
    titles = ["what matters most:", "before the training:", "rows:", "training:", "what OSFT limits:", "what is saved:"]
    places = [output.index(f"\n{title}") for title in titles]
    assert places == sorted(places) and places[0] < output.index("--base-model TEXT") < places[1]


def test_what_does_nothing_on_this_computer_is_accepted_and_said(started, capsys):
    uri = "s3://bucket/model"
    main([*RUN, "--resource-num-workers", "2", "--runtime", "mine", "--export-uri", uri])
    training = {"training_resource_num_workers": 2, "training_runtime": "mine", "export_uri": uri}
    assert started[0]["training"] == training
    assert "Without effect on this computer: --resource-num-workers, --runtime\n" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--use-liger", "org/rows"], ["org/rows", "--use-liger"]])
def test_a_switch_needs_no_true(started, arguments):
    main(["run", *arguments, "--show-sample", "false"])
    assert started[0]["training"] == {"training_use_liger": True, "training_show_sample": False}
    assert started[0]["dataset"] == "org/rows"


def test_the_names_of_other_trainers_work(started):
    main([*RUN, "--lr", "1e-4", "--epochs", "3", "--batch-size", "16"])
    assert started[0]["training"] == {
        "training_learning_rate": 1e-4,
        "training_num_epochs": 3,
        "training_effective_batch_size": 16,
    }


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["rows.jsonl"], "--dataset rows.jsonl: there is no such file or folder on this computer"),
        (
            ["data/rows"],
            "--dataset data/rows: there is no such file or folder on this computer; did you mean data/row?",
        ),
        (["./rows"], "--dataset ./rows: there is no such file or folder on this computer"),
        (["none/of/these/rows"], "there is no such file or folder on this computer, nor a folder none/of/these"),
        (["org/rows", "--base-model", "data/modell"], "--base-model data/modell: there is no such file or folder"),
        (["org/rows", "--base-model", "a/b/c"], "--base-model a/b/c: there is no such file or folder"),
        (["org/rows", "--validation-uri", "held.csv"], "--validation-uri held.csv: there is no such file or folder"),
    ],
)
def test_a_path_where_nothing_is_is_not_looked_up_on_the_hub(refused, tmp_path, monkeypatch, arguments, problem):
    (tmp_path / "data" / "row").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    line = refused("run", *arguments)
    assert problem in line
    assert "Hugging Face" not in line


def test_help_loads_no_training_library(tmp_path):
    program = (
        "import sys; from kfp_osft.pipelines.cli import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit:\n"
        "    print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert process.stdout.splitlines()[-1] == "False False", process.stderr


def test_each_secret_of_the_pipeline_has_an_option_for_its_name(tmp_path):
    from kfp_osft.pipelines.osft.secrets import SECRET_KEYS

    options = [f"--{purpose.replace('_', '-')}-secret={purpose.replace('_', '-')}-of-mine" for purpose in SECRET_KEYS]
    assert main(["compile", "--evaluate", "--output-dir", str(tmp_path), *options]) == 0
    text = (tmp_path / "osft_pipeline.yaml").read_text()
    for purpose in SECRET_KEYS:
        assert f"secretName: {purpose.replace('_', '-')}-of-mine" in text
    assert "secretName: hf-token" not in text


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"kfp-osft {kfp_osft.__version__}\n"


def test_an_argument_that_is_not_utf8_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "--dataset", "r\udcff.jsonl"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "kfp-osft: the argument 'r\\udcff.jsonl' is not UTF-8\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/out/x"), "kfp-osft run: No space left on device: /out/x"),
        (OSError(errno.EROFS, "Read-only file system"), "kfp-osft run: Read-only file system"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "kfp-osft run: No space left on device"),
        (MemoryError(), "kfp-osft run: out of memory"),
    ],
)
def test_what_the_system_refuses_is_one_line(monkeypatch, capsys, error, line):
    def run_locally(*arguments):
        raise error

    monkeypatch.setattr("kfp_osft.pipelines.local.run.run_locally", run_locally)
    assert main(RUN) == 1
    assert capsys.readouterr().err.strip() == line


@pytest.mark.parametrize("redirection", ["| head -1", ">&-", "2>&-", "<&-"])
def test_a_closed_output_is_no_traceback(redirection):
    command = f"set -o pipefail; {sys.executable} -m kfp_osft.pipelines.cli runtime --help {redirection}"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in process.stderr and "Exception ignored" not in process.stderr
    assert process.returncode in (0, 141), process.stderr
