import ast
import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from kfp_osft.stages.launch_trainjob import train_on_cpu, train_script
from kfp_osft.stages.launch_trainjob.train_text import train_text

# Stand-ins for the packages of a training image: they write down what reaches them.
TORCH = """
import os

class cuda:
    @staticmethod
    def is_available():
        return os.environ.get("GPUS") == "1" and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
"""
MINI_TRAINER = """
class TrainingArgs:
    __dataclass_fields__ = {"on_demand_checkpointing": None, "save_best_val_loss": None, "validation_split": None,
                            "validation_frequency": None}
"""
API_TRAIN = """
class StreamablePopen:
    def __init__(self, log_file, command):
        self.command = command
"""
TRANSFORMERS = """
def resolve_trust_remote_code(trust_remote_code, *args):
    return trust_remote_code
"""
TRAINING_HUB = """
import json, os, pathlib
from mini_trainer import api_train

def osft(model_path=None, target_patterns=None, ckpt_output_dir=None, learning_rate=None, use_liger=None,
         nproc_per_node=None, node_rank=None, save_final_checkpoint=None, checkpoint_at_epoch=None,
         num_epochs=None, enable_jit_checkpoint=None, *, callbacks=None, **kwargs):
    given = {name: value for name, value in locals().items() if value is not None and name != "kwargs"}
    seen = {"args": given, "further": kwargs}
    train_file = str(pathlib.Path(api_train.__file__).parent / "train.py")
    from transformers.dynamic_module_utils import resolve_trust_remote_code

    seen["trusted"] = resolve_trust_remote_code(True, "model"), resolve_trust_remote_code(None, "model")
    seen["stdin"] = os.readlink("/proc/self/fd/0")
    seen["command"] = api_train.StreamablePopen("log", ["torchrun", train_file, "--seed=1"]).command
    seen["env"] = dict(os.environ)
    seen["script"] = pathlib.Path(seen["command"][3]).read_text()
    folder = pathlib.Path(ckpt_output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get("INTERRUPTED"):
        state = folder / "full_state_checkpoints" / "step_3" / "training_state.pt"
        state.parent.mkdir(parents=True)
        state.touch()
    (folder / "seen.json").write_text(json.dumps(seen))
    for loss in json.loads(os.environ.get("LOSSES", "[2.0, 1.0]")):
        with (folder / "training_metrics_0.jsonl").open("a") as file:
            file.write(json.dumps({"step": 1, "loss": loss}) + "\\n")
    if os.environ.get("SAVES", "1") == "1":
        checkpoint = folder / "hf_format" / "samples_8.0"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "config.json").write_text("{}")
        (checkpoint / "model.safetensors").write_text("weights")
"""


@pytest.fixture
def image(tmp_path):
    """A folder with stand-ins for torch, mini_trainer and training_hub, as PYTHONPATH."""
    folder = tmp_path / "image"
    (folder / "mini_trainer").mkdir(parents=True)
    (folder / "torch.py").write_text(TORCH)
    (folder / "mini_trainer" / "__init__.py").write_text(MINI_TRAINER)
    (folder / "mini_trainer" / "api_train.py").write_text(API_TRAIN)
    (folder / "transformers").mkdir()
    (folder / "transformers" / "__init__.py").touch()
    (folder / "transformers" / "dynamic_module_utils.py").write_text(TRANSFORMERS)
    (folder / "training_hub.py").write_text(TRAINING_HUB)
    (folder / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    return folder


@pytest.fixture
def script(tmp_path):
    """The training script as a file."""
    file = tmp_path / "train_script.py"
    file.write_text(train_text())
    return file


@pytest.fixture
def run(image, script, tmp_path):
    """Runs the script in the image; returns the process and what osft saw (None: it was not called)."""

    def run_script(osft=None, device="auto", command=None, resumable=False, args=None, **env):
        checkpoint_dir = tmp_path / "checkpoints"
        (checkpoint_dir / "seen.json").unlink(missing_ok=True)
        osft = {"model_path": "/models/qwen", "ckpt_output_dir": str(checkpoint_dir), **(osft or {})}
        encoded = base64.b64encode(
            json.dumps({"osft": osft, "device": device, "resumable": resumable, **(args or {})}).encode()
        ).decode()
        process = subprocess.run(
            [sys.executable, *(command or [str(script)])],
            env={
                "OSFT_TRAIN_ARGS": encoded,
                "PYTHONPATH": str(image),
                "PATH": "/usr/bin:/bin",
                "TMPDIR": str(tmp_path),  # run by -c, the script leaves its file there
                **env,
            },
            capture_output=True,
            text=True,
        )
        seen = checkpoint_dir / "seen.json"
        return process, json.loads(seen.read_text()) if seen.exists() else None

    return run_script


def test_it_fits_into_an_item_of_a_command():
    # Kubeflow Trainer 2.2: maxLength of an item is 64 KiB.
    assert len(train_text().encode()) < 60_000


def test_it_imports_nothing_that_a_training_image_lacks():
    imported = set()
    for node in ast.walk(ast.parse(train_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names == {"torch", "transformers", "training_hub", "mini_trainer"}


@pytest.mark.parametrize(("epochs", "resumable", "saves"), [(1, True, True), (2, True, False), (1, False, False)])
def test_a_resumable_training_of_one_epoch_saves_its_state_when_it_is_interrupted(run, epochs, resumable, saves):
    # mini-trainer 0.9 resumes a later epoch than the first as if the training were over.
    _, seen = run({"num_epochs": epochs}, resumable=resumable)
    assert seen["args"].get("enable_jit_checkpoint", False) is saves


@pytest.mark.parametrize("node_rank", [0, 1])
def test_an_interrupted_training_fails_on_each_node_so_that_it_is_started_again(run, node_rank):
    # mini-trainer itself reports success.
    process, _ = run({"num_epochs": 1, "node_rank": node_rank}, resumable=True, INTERRUPTED="1")
    assert process.returncode == 143
    assert process.stderr.startswith("kfp-osft: the training was interrupted; its state is saved in")


def test_its_parts_define_no_name_twice_so_that_none_takes_anothers_place():
    names = [
        target
        for node in ast.parse(train_text()).body
        for target in (
            [node.name]
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
            else [one.id for one in node.targets if isinstance(one, ast.Name)]
            if isinstance(node, ast.Assign)
            else []
        )
    ]
    assert sorted(names) == sorted(set(names))


def test_a_python_error_of_the_training_may_mend_and_one_of_its_arguments_may_not(run, image):
    (image / "training_hub.py").write_text(
        "def osft(model_path=None, ckpt_output_dir=None): raise ValueError('worker')"
    )
    assert run()[0].returncode == 1
    (image / "training_hub.py").write_text("raise ImportError('no such library')")
    assert run()[0].returncode == 78


def test_its_text_fits_into_a_trainjob_command():
    assert len(train_text().encode()) < 64 * 1024


def test_with_a_gpu_arguments_and_devices_stay_as_they_are(run, tmp_path):
    process, seen = run({"use_liger": True, "nproc_per_node": "auto", "learning_rate": 0.1}, GPUS="1")
    assert process.returncode == 0, process.stderr
    assert seen["args"] == {
        "model_path": "/models/qwen",
        "ckpt_output_dir": str(tmp_path / "checkpoints"),
        "use_liger": True,
        "nproc_per_node": "auto",
        "learning_rate": 0.1,
    }
    assert seen["env"]["OSFT_ON_CPU"] == "0" and not {"OMP_NUM_THREADS", "NUMBA_DISABLE_JIT"} & seen["env"].keys()


@pytest.mark.parametrize(("device", "gpus", "on_cpu"), [("auto", "0", "1"), ("cpu", "1", "1"), ("auto", "1", "0")])
def test_torchrun_runs_the_script_itself_and_lies_beside_no_path(run, script, device, gpus, on_cpu):
    process, seen = run(device=device, GPUS=gpus)
    assert process.returncode == 0, process.stderr
    assert seen["command"] == [sys.executable, "-m", "torch.distributed.run", str(script), "--worker", "--seed=1"]
    assert seen["env"]["OSFT_ON_CPU"] == on_cpu


@pytest.mark.parametrize(("given", "trusted"), [({}, False), ({"trust_remote_code": True}, True)])
def test_code_beside_a_model_runs_only_where_it_was_asked_for_whatever_mini_trainer_says(run, given, trusted):
    _, seen = run(given)
    assert seen["trusted"] == [trusted, trusted]
    assert seen["env"]["OSFT_TRUST_REMOTE_CODE"] == str(int(trusted))
    assert "trust_remote_code" not in seen["args"]


def test_nobody_can_answer_a_question_of_the_training(run):
    assert run()[1]["stdin"] == "/dev/null"


def test_device_cpu_hides_the_gpu_from_the_workers(run):
    assert run(device="cpu", GPUS="1")[1]["env"]["CUDA_VISIBLE_DEVICES"] == ""


def test_device_cuda_without_a_gpu_fails_before_it_trains(run):
    process, seen = run(device="cuda")
    assert process.returncode == 78 and seen is None
    assert "no CUDA GPU" in process.stderr


def test_run_as_a_command_it_gives_torchrun_a_file_with_the_same_text(run):
    source = train_text()
    process, seen = run(command=("-c", source))
    assert process.returncode == 0, process.stderr
    assert seen["script"] == source


@pytest.mark.parametrize(("given", "used"), [(None, 1), ("auto", 1), ("gpu", 1), (2, 2), ("3", 3)])
def test_on_the_cpu_it_takes_the_number_of_processes_that_was_asked_for_else_one(run, given, used):
    process, seen = run({"nproc_per_node": given})
    assert seen["args"]["nproc_per_node"] == used
    threads = max(1, train_on_cpu.usable_cores() // used)
    assert seen["env"]["OMP_NUM_THREADS"] == str(threads)
    assert f"training on the CPU, processes: {used}, threads of each: {threads}" in process.stdout


@pytest.mark.parametrize(("server", "used"), [("2", 2), ("auto", 1)])
def test_on_the_cpu_the_servers_number_of_processes_holds_when_none_was_given(run, server, used):
    assert run(PET_NPROC_PER_NODE=server)[1]["args"]["nproc_per_node"] == used


def test_waiting_threads_leave_the_cores_to_others(run):
    _, seen = run()
    assert seen["env"]["GOMP_SPINCOUNT"] == "10000"


def test_on_the_cpu_nothing_is_compiled_to_pack_a_batch(run):
    assert run()[1]["env"]["NUMBA_DISABLE_JIT"] == "1"


def test_the_users_number_of_threads_holds(run):
    assert run(OMP_NUM_THREADS="7")[1]["env"]["OMP_NUM_THREADS"] == "7"


def test_only_a_training_on_one_node_stays_on_the_loopback_interface(run):
    assert "GLOO_SOCKET_IFNAME" in run()[1]["env"]
    assert "GLOO_SOCKET_IFNAME" not in run(PET_NNODES="2")[1]["env"]


def test_on_the_cpu_liger_is_switched_off_and_said(run):
    process, seen = run({"use_liger": True})
    assert seen["args"]["use_liger"] is False
    assert "Liger kernels need a GPU" in process.stdout


@pytest.mark.parametrize(
    ("name", "hint"),
    [("lerning_rate", "'learning_rate'"), ("save_best_val_los", "'save_best_val_loss'"), ("kwargs", "")],
)
def test_a_keyword_that_osft_would_swallow_is_a_type_error_that_names_it(run, name, hint):
    process, seen = run({name: 1})
    assert process.returncode == 78 and seen is None
    last = process.stderr.splitlines()[-1]
    assert f"TypeError: neither training_hub.osft nor mini-trainer here has a parameter {name!r}." in last
    assert hint in last


def test_a_keyword_that_only_mini_trainer_has_is_handed_on(run):
    process, seen = run({"save_best_val_loss": True})
    assert process.returncode == 0, process.stderr
    assert seen["further"] == {"save_best_val_loss": True}


def test_the_optimizers_arguments_reach_the_workers_which_training_hub_does_not_see_to(run):
    process, seen = run({"optimizer_kwargs": {"weight_decay": 0.1, "beta2": 0.99}})
    assert process.returncode == 0, process.stderr
    assert seen["command"][-3:] == ["--seed=1", "--weight-decay=0.1", "--beta2=0.99"]
    assert "optimizer_kwargs" not in seen["further"]


def test_a_mini_trainer_without_a_file_of_held_out_rows_gets_a_share_and_its_workers_the_file(run):
    held_out = {"validation_data_path": "/rows/validation.jsonl", "validation_frequency": 3, "validate_at_final": True}
    process, seen = run(held_out)
    assert process.returncode == 0, process.stderr
    assert seen["further"] == {"validation_frequency": 3, "validation_split": 1e-9}
    assert seen["env"]["OSFT_HELD_OUT_ROWS"] == "/rows/validation.jsonl"
    assert "validates every 3 steps only: the model after the last step is not validated" in process.stdout


def test_a_mini_trainer_with_a_file_of_held_out_rows_gets_it(run, image):
    (image / "mini_trainer" / "__init__.py").write_text(
        MINI_TRAINER.replace("{", '{"validation_data_path": None, "validate_at_final": None, ')
    )
    held_out = {"validation_data_path": "/rows/validation.jsonl", "validation_frequency": 3, "validate_at_final": True}
    process, seen = run(held_out)
    assert process.returncode == 0, process.stderr
    assert seen["further"] == held_out and "OSFT_HELD_OUT_ROWS" not in seen["env"]


TRACKERS = {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "WANDB_PROJECT": "mine", "TENSORBOARD_PORT": "6006"}


@pytest.mark.parametrize(("report_to", "left"), [([], set()), (["wandb"], {"WANDB_PROJECT"})])
def test_the_training_sees_the_variables_of_those_trackers_alone_that_it_is_to_report_to(run, image, report_to, left):
    # mini-trainer would start one, and fail without its package.
    (image / "wandb.py").touch()
    process, seen = run(args={"report_to": report_to}, **TRACKERS)
    assert process.returncode == 0, process.stderr
    assert seen["env"].keys() & TRACKERS.keys() == left


def test_a_tracker_that_the_image_lacks_ends_the_training_before_it_begins(run):
    process, seen = run(args={"report_to": ["mlflow"]}, **TRACKERS)
    assert process.returncode == 78 and seen is None
    assert process.stderr == "kfp-osft: training_report_to=mlflow: this image does not have the package mlflow\n"


def test_event_files_of_tensorboard_lie_beside_the_checkpoints(run, tmp_path):
    process, _ = run(args={"report_to": ["tensorboard"]})
    assert process.returncode == 0, process.stderr
    (file,) = (tmp_path / "checkpoints" / "tensorboard").glob("events.out.tfevents.*")
    assert file.read_bytes().count(b"train/loss") == 2


@pytest.mark.parametrize(
    ("train_args", "message"),
    [
        ("not base64!", "must be base64 of JSON"),
        ({"args": {}}, "must be base64 of JSON"),
        ([1], "must be base64 of JSON"),
        ({"osft": 1}, "osft in OSFT_TRAIN_ARGS is a int"),
        ({"osft": {}, "devices": "cpu"}, "may hold osft, device, .*unexpected keyword argument 'devices'"),
        ({"osft": {}, "device": "tpu"}, "device in OSFT_TRAIN_ARGS is 'tpu'; allowed: auto, cuda, cpu"),
    ],
)
def test_arguments_it_cannot_read_are_named(train_args, message):
    encoded = train_args
    if not isinstance(train_args, str):
        encoded = base64.b64encode(json.dumps(train_args).encode()).decode()
    with pytest.raises(ValueError, match=message):
        train_script.read_train_args(encoded)


@pytest.mark.parametrize("losses", ["[NaN]", "[2.0, NaN]", "[2.0, Infinity]"])
def test_a_training_whose_last_loss_is_not_finite_fails_with_a_sentence(run, losses):
    process, _ = run(LOSSES=losses)
    assert process.returncode == 78
    assert process.stderr.startswith("kfp-osft: the training is lost: the loss of step 1 is")


def test_a_complete_training_leaves_a_mark_and_one_that_is_no_good_takes_it_away(run, tmp_path):
    mark = tmp_path / "checkpoints" / "training_complete.json"
    run()
    assert mark.exists()
    run(LOSSES="[NaN]")
    assert not mark.exists()


def test_a_training_without_a_checkpoint_fails_with_a_sentence(run):
    process, _ = run(SAVES="0")
    assert process.returncode == 78
    assert process.stderr.startswith("kfp-osft: the training ended without a checkpoint")


def test_a_training_without_a_step_fails_with_a_sentence(run):
    process, _ = run(LOSSES="[]")
    assert process.returncode == 78
    assert process.stderr.startswith("kfp-osft: the training ended without a step")


def test_what_an_older_run_left_in_the_folder_does_not_count(run):
    assert run()[0].returncode == 0
    assert "without a step" in run(LOSSES="[]")[0].stderr
    assert "without a checkpoint" in run(SAVES="0")[0].stderr
    assert run(LOSSES="[NaN]")[0].returncode == 78
    assert run()[0].returncode == 0


@pytest.mark.parametrize(
    ("osft", "code"),
    [
        ({"save_final_checkpoint": False}, 0),
        ({"save_final_checkpoint": False, "checkpoint_at_epoch": True}, 78),
        ({"save_final_checkpoint": None}, 78),
    ],
)
def test_a_checkpoint_is_expected_unless_none_was_asked_for(run, osft, code):
    assert run(osft, SAVES="0")[0].returncode == code


@pytest.mark.parametrize(("osft", "env"), [({"node_rank": 1}, {}), ({}, {"PET_NODE_RANK": "1"})])
def test_only_the_first_node_looks_for_results(run, osft, env):
    assert run(osft, LOSSES="[]", SAVES="0", **env)[0].returncode == 0


@pytest.mark.parametrize(("osft", "writes"), [({}, True), ({"node_rank": 1}, False)])
def test_the_first_node_writes_the_versions_of_the_libraries_that_train(run, image, tmp_path, osft, writes):
    (image / "torch-9.9.dist-info").mkdir()
    (image / "torch-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9\n")

    run(osft)

    file = tmp_path / "checkpoints" / "library_versions.json"
    assert file.exists() is writes
    if writes:
        versions = json.loads(file.read_text())
        assert versions["torch"] == "9.9" and versions["python"].startswith("3.")


def hidden(folder: Path, source: str | None) -> str:
    if source is not None:
        (folder / "torchvision.py").write_text(source)
    code = (
        "import importlib.util, sys\n"
        "from kfp_osft.stages.launch_trainjob.train_script import hide_broken_torchvision\n"
        "hide_broken_torchvision()\n"
        "print(sys.modules['torchvision'] is None, importlib.util.find_spec('torchvision') is None)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.check_output([sys.executable, "-c", code], env=env, text=True).strip()


def test_a_torchvision_that_does_not_import_looks_absent(tmp_path):
    assert hidden(tmp_path, "raise RuntimeError('operator torchvision::nms does not exist')") == "True True"


def test_a_torchvision_that_imports_stays(tmp_path):
    assert hidden(tmp_path, "") == "False False"


WORKER = """
import os, sys, time
from kfp_osft.stages.launch_trainjob import train_script
print(os.getpid(), flush=True)
os.environ[train_script.LAUNCHER_PID_VARIABLE] = sys.argv[1]
train_script._end_with_launcher()
"""


@pytest.mark.parametrize("killed", ["launcher", "torchrun"])
def test_a_worker_ends_when_the_launcher_or_torchrun_was_killed(killed):
    launcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    start = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"
    torchrun = subprocess.Popen(
        [sys.executable, "-c", start, "-c", WORKER, str(launcher.pid)], stdout=subprocess.PIPE, text=True
    )
    worker = psutil.Process(int(torchrun.stdout.readline()))
    try:
        time.sleep(1.5)
        assert worker.status() != psutil.STATUS_ZOMBIE  # both live, and so does it
        process = launcher if killed == "launcher" else torchrun
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        with contextlib.suppress(psutil.NoSuchProcess):
            while worker.status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < deadline, "the worker lives on"
                time.sleep(0.1)
    finally:
        for process in (launcher, torchrun):
            process.kill()
            process.wait()
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()


def test_checkpoints_are_opened_to_the_group_in_which_other_pods_read_them(tmp_path):
    weights = tmp_path / "hf_format" / "samples_8.0" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch(mode=0o600)

    train_script.open_to_group(str(tmp_path))

    assert weights.stat().st_mode & 0o777 == 0o660
