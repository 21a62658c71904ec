"""The training script: one call of training_hub.osft, the same on a cluster and on a laptop.

It stands alone (standard library and training-hub only), because a TrainJob ships it as text into an image
that has training-hub but not this package: train_text.py puts it together with its parts. Run that text as a file or by
`python -c`.

It reads its arguments from the environment variable OSFT_TRAIN_ARGS, the base64 of a JSON object:

    {"osft": {keyword arguments of training_hub.osft}, "device": "auto" | "cuda" | "cpu", "resumable": true | false,
     "attendance": {"file": that the launcher writes, "minutes": of a training that nobody follows},
     "progress_port": where the Trainer asks for the progress, "report_to": ["mlflow", "tensorboard", "wandb"]}

Among the keyword arguments may be those of mini-trainer's TrainingArgs that training_hub.osft does not name and hands
on, and optimizer_kwargs: an object of beta1, beta2, eps and weight_decay, which training_hub takes and mini-trainer
(0.6.1 to 0.9.0: api_train.run_training) does not hand to its workers; here they get them.

The workers that torchrun starts run this file too, which then runs mini-trainer's own train.py. In between it
- decides about code in the model's folder: mini-trainer loads configurations with trust_remote_code=True, whatever it
  was told; here it runs only with {"osft": {"trust_remote_code": true}};
- projects the parameters after each optimizer step where mini-trainer (before 0.8.0) does not;
- tells how far the decomposition is;
- without a GPU ("auto"), or with "cpu", puts CPU devices in the place of CUDA's.
"cuda" is for jobs that paid for a GPU: they fail at once where there is none.

"resumable" has mini-trainer save its whole state on SIGTERM (a pod is evicted or preempted, or somebody pressed Ctrl-C)
and resume from it in the next attempt, where it can: see train_resume.py.

Exit code 0 means a new checkpoint and a finite loss; mini-trainer alone reports success without both. The others are in
train_end.py.
"""

import base64
import difflib
import gc
import inspect
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kfp_osft.shared.model.torchvision import hide_broken_torchvision
from kfp_osft.shared.parameters.environment import blot_out, secret_values
from kfp_osft.stages.launch_trainjob.train_attendance import Attendance
from kfp_osft.stages.launch_trainjob.train_decomposition import tell_decomposition
from kfp_osft.stages.launch_trainjob.train_end import INTERRUPTED, UNATTENDED, UNMENDABLE, end
from kfp_osft.stages.launch_trainjob.train_on_cpu import arguments_for_cpu, put_cpu_in_place_of_cuda
from kfp_osft.stages.launch_trainjob.train_progress import Progress, ProgressReport
from kfp_osft.stages.launch_trainjob.train_projection import project_parameters_after_each_step
from kfp_osft.stages.launch_trainjob.train_remote_code import decide_remote_code
from kfp_osft.stages.launch_trainjob.train_result import (
    COMPLETE_FILE,
    METRICS_FILE,
    checkpoint_weights,
    find_problem,
    metrics_size,
    open_to_group,
    saved_states,
    write_versions,
)
from kfp_osft.stages.launch_trainjob.train_resume import can_resume, remove_cut_states, resume_exactly
from kfp_osft.stages.launch_trainjob.train_trackers import TENSORBOARD, StepEvents, keep_trackers
from kfp_osft.stages.launch_trainjob.train_validation import (
    HELD_OUT_VARIABLE,
    BestModels,
    validate_on,
    validation_as_known,
)

ARGS_VARIABLE = "OSFT_TRAIN_ARGS"
DEVICES = ("auto", "cuda", "cpu")
WORKER_FLAG = "--worker"
LAUNCHER_PID_VARIABLE = "OSFT_LAUNCHER_PID"
ON_CPU_VARIABLE = "OSFT_ON_CPU"
TRUST_VARIABLE = "OSFT_TRUST_REMOTE_CODE"


class TrainArgs(NamedTuple):
    """What OSFT_TRAIN_ARGS says: keyword arguments of osft, the device, whether to go on from a saved state, where the
    launcher's heartbeat is and how old it may become, where to serve the progress (0: nowhere), which experiment
    trackers to report to."""

    osft: dict
    device: str = "auto"
    resumable: bool = False
    attendance: dict | None = None
    progress_port: int = 0
    report_to: Sequence[str] = ()


def main() -> None:
    """Trains as OSFT_TRAIN_ARGS says and checks the result; ends with a sentence if it is no good."""
    # Lines reach the reader one by one, although mini-trainer's launcher and workers write to pipes.
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    # `datasets`, with which mini-trainer reads the rows, would report each reading to its makers: the one connection
    # that a training without network would try.
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]  # a text file here
    # Nobody answers questions here, nor can a pipe answer them.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    if os.getpid() == 1:
        # The kernel gives a container's first process no SIGTERM that it does not handle: its pod would keep the GPU
        # through its grace period.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))

    try:
        train_args = read_train_args(os.environ.get(ARGS_VARIABLE, ""))
        if train_args.attendance is not None:
            share_with_stages()
        attendance = Attendance(**(train_args.attendance or {}))
        attendance.start()
        keep_trackers(train_args.report_to)
        osft, osft_args = prepare(train_args)
    except (ValueError, TypeError, ImportError):
        # Wrong arguments, or an image without the libraries.
        traceback.print_exc()
        sys.exit(UNMENDABLE)

    checkpoint_dir, rank = osft_args["ckpt_output_dir"], node_rank(osft_args)
    if rank == 0:
        Path(checkpoint_dir, COMPLETE_FILE).unlink(missing_ok=True)
        write_versions(checkpoint_dir)
        remove_cut_states(checkpoint_dir)
    weights_before = checkpoint_weights(checkpoint_dir)
    states_before = saved_states(checkpoint_dir)
    steps = Path(checkpoint_dir) / METRICS_FILE
    # A state may be that of the last step, after which only the model is saved.
    metrics_before = 0 if states_before else metrics_size(checkpoint_dir)
    progress = ProgressReport(
        Progress(steps, metrics_before, osft_args.get("num_epochs") or 1),
        train_args.progress_port,
        is_primary=rank == 0,
    )
    best_models, events = BestModels(checkpoint_dir), None
    if rank == 0:
        best_models.start()
        if TENSORBOARD in train_args.report_to:
            events = StepEvents(steps, metrics_size(checkpoint_dir), Path(checkpoint_dir, TENSORBOARD))
    complete = False
    try:
        osft(**osft_args)
        # On every node: one that ended as if all were well would not be there for the next attempt.
        states = saved_states(checkpoint_dir) - states_before
        if states and not attendance.is_over:
            end(
                INTERRUPTED,
                f"the training was interrupted; its state is saved in {max(states)}, and the next attempt goes on "
                "from there",
            )
        problem = find_problem(osft_args, weights_before, metrics_before) if rank == 0 and not states else None
        if problem:
            end(UNMENDABLE, problem)
        complete = not states
    finally:
        progress.end(complete)
        if rank == 0:
            best_models.end(complete)
        if events is not None:
            events.end()
        if attendance.is_over and not complete:
            end(UNATTENDED, attendance.sentence)
    if rank == 0:
        if train_args.attendance is not None:
            open_to_group(checkpoint_dir)
        Path(checkpoint_dir, COMPLETE_FILE).write_text("{}", encoding="utf-8")


def prepare(train_args: TrainArgs) -> tuple[Callable, dict]:
    """training_hub.osft and its keyword arguments, once the libraries are imported, for the device there is."""
    osft_args, device = dict(train_args.osft), train_args.device
    if device == "cpu":
        # Before torch is imported, so that no worker finds a GPU either.
        os.environ.update(CUDA_VISIBLE_DEVICES="", HIP_VISIBLE_DEVICES="")
    trust_remote_code = bool(osft_args.pop("trust_remote_code", False))
    optimizer_kwargs = osft_args.pop("optimizer_kwargs", None) or {}
    hide_broken_torchvision()
    decide_remote_code(trust_remote_code)
    import torch
    import training_hub

    osft_args = validation_as_known(osft_args)
    check_keywords(training_hub.osft, osft_args)
    has_cuda = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        end(UNMENDABLE, "device is 'cuda', but PyTorch finds no CUDA GPU here. Without one: 'auto' or 'cpu'.")
    if not has_cuda:
        osft_args = arguments_for_cpu(osft_args)
    send_workers_here(not has_cuda, trust_remote_code, optimizer_kwargs)
    if train_args.resumable and can_resume(training_hub.osft, osft_args):
        osft_args["enable_jit_checkpoint"] = True
    return training_hub.osft, osft_args


def read_train_args(encoded: str) -> TrainArgs:
    """Decodes the value of OSFT_TRAIN_ARGS.

    Raises:
        ValueError: not base64 of a JSON object with the key "osft" (an object) and, optionally, the others.
    """
    try:
        train_args = TrainArgs(**json.loads(base64.b64decode(encoded, validate=True)))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f'{ARGS_VARIABLE} must be base64 of JSON {{"osft": {{...}}}}, and may hold '
            f"{', '.join(TrainArgs._fields)}: {error!r}"
        ) from None
    if not isinstance(train_args.osft, dict):
        raise ValueError(f"osft in {ARGS_VARIABLE} is a {type(train_args.osft).__name__}; it must be an object")
    if train_args.device not in DEVICES:
        raise ValueError(f"device in {ARGS_VARIABLE} is {train_args.device!r}; allowed: {', '.join(DEVICES)}")
    return train_args


def share_with_stages() -> None:
    """On a cluster: the stages' pods, of the same group, may change what is written here, and there is a home folder.

    OpenShift gives each project's pods a random user, and images a home folder that it need not be able to write.
    """
    os.umask(0o002)
    home = os.environ.get("HOME", "")
    if not home or not os.access(home, os.W_OK):
        os.environ["HOME"] = os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir()
        os.makedirs(os.environ["HOME"], exist_ok=True)


def check_keywords(osft: Callable, osft_args: dict) -> None:
    """Raises a TypeError that names the first keyword which neither `osft` nor mini-trainer has.

    training_hub.osft takes **kwargs, hands mini-trainer those that its TrainingArgs have, and drops all others: a
    misspelt name trains with the default.
    """
    from mini_trainer import TrainingArgs

    known = [
        name
        for name, parameter in inspect.signature(osft).parameters.items()
        if parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]
    known += TrainingArgs.__dataclass_fields__
    for name in osft_args:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"neither training_hub.osft nor mini-trainer here has a parameter {name!r}.{hint}")


def send_workers_here(on_cpu: bool, trust_remote_code: bool, optimizer_kwargs: Mapping[str, float]) -> None:
    """Makes mini-trainer's launcher give torchrun this file to run, in the place of its train.py, with the optimizer's
    arguments."""
    from mini_trainer import api_train

    train_file = str(Path(api_train.__file__).parent / "train.py")
    script = str(own_file())
    os.environ[LAUNCHER_PID_VARIABLE] = str(os.getpid())
    os.environ[ON_CPU_VARIABLE] = str(int(on_cpu))
    os.environ[TRUST_VARIABLE] = str(int(trust_remote_code))
    # Of options that are there twice, the last one counts.
    options = [f"--{name.replace('_', '-')}={value}" for name, value in optimizer_kwargs.items()]

    class WorkerStreamablePopen(api_train.StreamablePopen):
        def __init__(self, log_file: str, command: list):
            if command[0] != "torchrun" or train_file not in command:
                raise RuntimeError(f"mini-trainer's command is not torchrun with {train_file}: an unknown version")
            place = command.index(train_file)
            # By its module: the program torchrun lies beside this interpreter, or nowhere on the PATH.
            torchrun = [sys.executable, "-m", "torch.distributed.run", *command[1:place]]
            super().__init__(log_file, [*torchrun, script, WORKER_FLAG, *command[place + 1 :], *options])

        def listen(self):
            """As mini-trainer's, but that no secret gets into the pod's log, and the file in the workspace."""
            secrets = secret_values(os.environ)
            os.makedirs(os.path.dirname(self.log_file) or ".", exist_ok=True)
            with open(self.log_file, "w", encoding="utf-8") as log:
                self.process = subprocess.Popen(
                    self.command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    encoding="utf-8",
                    errors="replace",
                    bufsize=1,
                )
                assert self.process.stdout is not None
                for line in self.process.stdout:
                    line = blot_out(line, secrets)
                    print(line, end="")
                    log.write(line)
                    log.flush()
                self.process.wait()

    api_train.StreamablePopen = WorkerStreamablePopen


def own_file() -> Path:
    """This script as a file: its own or, run by `python -c`, a temporary one with the text of the command."""
    if "__file__" in globals():
        return Path(__file__).resolve()
    source = sys.orig_argv[sys.orig_argv.index("-c") + 1]
    path = Path(tempfile.mkdtemp(prefix="kfp-osft-")) / "train_script.py"
    path.write_text(source, encoding="utf-8")
    return path


def run_worker(arguments: list[str]) -> None:
    """One process of the training: mini-trainer's train.py, run as __main__."""
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    hide_broken_torchvision()
    decide_remote_code(os.environ.get(TRUST_VARIABLE) == "1")
    if os.environ.get(ON_CPU_VARIABLE) == "1":
        # mini-trainer asks for FlashAttention, which has no CPU kernels. Where that is missing, TESTING makes it
        # take PyTorch's own attention, which keeps rows that are packed into one sequence apart just as well.
        sys.modules["flash_attn"] = None  # pyright: ignore[reportArgumentType]  # what import takes for absent
        os.environ["TESTING"] = "true"
        put_cpu_in_place_of_cuda()
    project_parameters_after_each_step()
    tell_decomposition()
    resume_exactly(arguments)
    if held_out := os.environ.get(HELD_OUT_VARIABLE):
        validate_on(held_out)
    import mini_trainer

    # mini-trainer collects garbage after each matrix that it decomposes. All that was imported is no garbage, and
    # looking at it takes a third of a second each time.
    gc.freeze()
    train_file = str(Path(mini_trainer.__file__).parent / "train.py")
    sys.argv = [train_file, *arguments]
    runpy.run_path(train_file, run_name="__main__")


def _end_with_launcher() -> None:
    """Ends this worker when torchrun or the launcher is gone: a killed training leaves none behind."""
    torchrun, launcher = os.getppid(), int(os.environ[LAUNCHER_PID_VARIABLE])
    while os.getppid() == torchrun:
        try:
            os.kill(launcher, 0)
        except ProcessLookupError:
            break
        time.sleep(1)
    os._exit(1)


def node_rank(osft_args: dict) -> int:
    """This node's rank, by training_hub's own order: the argument, then PET_NODE_RANK, then 0."""
    rank = osft_args.get("node_rank")
    return int(os.environ.get("PET_NODE_RANK") or 0) if rank is None else int(rank)


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER_FLAG]:
        run_worker(sys.argv[2:])
    else:
        main()
