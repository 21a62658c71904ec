from pathlib import Path

from kfp_osft.stages.launch_trainjob import trainer_output
from kfp_osft.stages.launch_trainjob.trainer_output import TrainerOutput

# What mini-trainer and torchrun print, shortened.
CONSOLE = """\
kfp-osft: training on the CPU, processes: 1, threads of each: 2
2026-11-22 19:23:33,677 - mini_trainer.api_train - INFO - Starting training setup...
Command: torchrun --nnodes=1 train.py --osft
Training with parameters: {
    "max_epochs":2,
    "seed":1
}
\x1b[33m!!!! Calling from_pretrained !!!!\x1b[0m
📥 Loading base model to CPU in torch.float32...
\rLoading weights:   0%|    | 0/26 [00:00<?, ?it/s]\rLoading weights: 100%|██| 26/26 [00:00<00:00, 9919it/s]
Generating train split: 0 examples [00:00, ? examples/s]
[transformers] `torch_dtype` is deprecated! Use `dtype` instead!
Dataset split: 32 train
EPOCH training mode: 4 batches/epoch * 2 epochs = 8 steps
================================================================================
🔄 [Phase 2] Starting FSDP2 wrapping
   ✓ Wrapped 2 blocks with FSDP2
\x1b[38;5;196mremoved 3 samples from batch because they are longer than the max tokens per gpu\x1b[0m
\x1b[1m{\x1b[0m
  \x1b[1;34m"step"\x1b[0m: \x1b[1;36m1\x1b[0m,
  \x1b[1;34m"epoch"\x1b[0m: \x1b[1;36m0\x1b[0m,
  \x1b[1;34m"steps_per_epoch"\x1b[0m: \x1b[1;36m4\x1b[0m,
  \x1b[1;34m"lr"\x1b[0m: \x1b[1;36m9.5e-05\x1b[0m,
  \x1b[1;34m"loss"\x1b[0m: \x1b[1;36m2.10312\x1b[0m,
  \x1b[1;34m"time_per_batch"\x1b[0m: \x1b[1;36m60.0\x1b[0m,
  \x1b[1;34m"tokens_per_second"\x1b[0m: \x1b[1;36m312.4\x1b[0m,
  \x1b[1;34m"val_loss"\x1b[0m: \x1b[3;35mnull\x1b[0m,
  \x1b[1;34m"timestamp"\x1b[0m: \x1b[32m"2026-11-22T19:23:49.724415"\x1b[0m
\x1b[1m}\x1b[0m
\x1b[1;34mEpoch 1:\x1b[0m ━━ \x1b[33m 25%\x1b[0m │ 1/4 │ loss: 2.1031 │ lr: 9.50e-05 │ 312 \x1b[2mtok/s\x1b[0m
{
  "step": 2,
  "epoch": 0,
  "steps_per_epoch": 4,
  "lr": 9e-05,
  "loss": NaN,
  "time_per_batch": 20.5,
  "tokens_per_second": 300.0
}
⚠️  Warning: Found tensor lm_head.weight with dtype torch.float32, casting to torch.bfloat16
✅ Saved model at 128.0 samples in 0.03 seconds
Training complete 😀, tearing down distributed environment
"""
FAILURE = """\
[rank1]: Traceback (most recent call last):
[rank1]:   File "mini_trainer/sampler.py", line 205, in load_and_split
[rank0]: Traceback (most recent call last):
[rank1]:     hf_dataset = load_dataset(data_path, split="train")
[rank1]:                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
[rank0]:   File "mini_trainer/sampler.py", line 205, in load_and_split
[rank1]: FileNotFoundError: Couldn't find any data file at /nope.jsonl.
[rank0]: FileNotFoundError: Couldn't find any data file at /nope.jsonl, said rank 0.
E1122 19:25:34.309000 8413 torch/distributed/elastic/multiprocessing/api.py:1] failed (exitcode: 1) local_rank
Traceback (most recent call last):
  File "bin/torchrun", line 8, in <module>
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
RuntimeError: Training failed. Please check the logs at training_log_node0.log for details.
"""


def test_of_the_console_one_line_a_step_and_what_matters_is_left():
    output = TrainerOutput(num_epochs=2, seconds_between_steps=0)
    assert [line for raw in CONSOLE.splitlines(True) if (line := output.read(raw)) is not None] == [
        "training on the CPU, processes: 1, threads of each: 2",
        "Loading base model to CPU in torch.float32...",
        "Dataset split: 32 train",
        "EPOCH training mode: 4 batches/epoch * 2 epochs = 8 steps",
        "removed 3 samples from batch because they are longer than the max tokens per gpu",
        "step 1/8 | epoch 1 | loss 2.1031 | lr 9.5e-05 | 312 tokens/s | 7 min 0 s left",
        "step 2/8 | epoch 1 | loss nan | lr 9e-05 | 300 tokens/s | 2 min 3 s left\n"
        "Warning: The loss is NaN at step 2. If that of the next steps is too, the model is lost: end the training, "
        "and start it with a lower training_learning_rate or more training_lr_warmup_steps.",
        "Saved model at 128.0 samples in 0.03 seconds",
    ]


def test_of_a_failure_the_first_workers_traceback_is_left_without_torchruns_report():
    output = TrainerOutput(num_epochs=2)
    live = [line for raw in FAILURE.splitlines(True) if (line := output.read(raw)) is not None]
    assert live[-1] == "FileNotFoundError: Couldn't find any data file at /nope.jsonl, said rank 0."
    assert output.last_words() == [
        "Traceback (most recent call last):",
        '  File "mini_trainer/sampler.py", line 205, in load_and_split',
        '    hf_dataset = load_dataset(data_path, split="train")',
        "FileNotFoundError: Couldn't find any data file at /nope.jsonl.",
    ]


def test_a_killed_worker_is_attributed_to_a_lack_of_memory():
    output = TrainerOutput(num_epochs=1)
    output.read("E1122 1 torch/distributed/elastic/multiprocessing/api.py:1] failed (exitcode: -9)")
    text = output.describe_failure(1, Path("run.log"))
    assert "ended with signal SIGKILL" in text and "memory has run out" in text


def printed_steps(losses: list[float], gradient_norm: float = 1.0) -> list[str]:
    """What mini-trainer prints of 40 quick steps with these losses, a line each."""
    lines = []
    for step, loss in enumerate(losses, start=1):
        fields = {
            "step": step,
            "epoch": 0,
            "steps_per_epoch": 40,
            "lr": 1e-4,
            "grad_norm": gradient_norm,
            "loss": loss,
            "time_per_batch": 0.25,
            "tokens_per_second": 300.0,
        }
        lines += ["{", *(f'  "{name}": {value},' for name, value in fields.items()), "}"]
    return lines


def test_of_quick_steps_the_first_the_last_and_one_a_second_are_left(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(trainer_output.time, "monotonic", lambda: clock[0])
    output = TrainerOutput(num_epochs=1)
    told = []
    for raw in printed_steps([2.0] * 40):
        told += [line for line in [output.read(raw)] if line is not None]
        clock[0] += 0.25 * (raw == "}")
    assert [line.split("/")[0] for line in told] == [f"step {step}" for step in (*range(1, 41, 4), 40)]


def test_a_step_that_goes_wrong_is_told_at_once_also_between_the_steps_that_are_shown():
    output = TrainerOutput(num_epochs=1)
    told = [line for raw in printed_steps([2.0, 2.1, 9.5, 2.0]) if (line := output.read(raw)) is not None]
    assert [line.split("/")[0] for line in told] == ["step 1", "step 3"]
    assert "\nWarning: The loss jumped from about 2.05 to 9.5 at step 3." in told[1]


def test_a_gradient_of_zero_is_told():
    output = TrainerOutput(num_epochs=1)
    (told,) = [line for raw in printed_steps([2.0, 2.0], 0.0) if (line := output.read(raw)) is not None]
    assert "\nWarning: The gradient is 0 at step 1, which taught nothing." in told
