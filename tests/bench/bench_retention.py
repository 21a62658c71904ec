"""Retention: what a model learns of three tasks, one after the other, and what it forgets.

The arms: OSFT at two ratios, plain fine-tuning by the same trainer, and joint training on all tasks as the bound. The
rate of each arm is chosen on development rows so that all arms learn a task about equally well: steps of one rate on
the factors of a decomposed matrix move the weights further than on the matrix itself.

The model is the demo's, SmolLM2-135M-Instruct. It needs reasoning-gym (pip install reasoning-gym==0.1.25, in an
environment of its own), and a later call goes on where one was stopped.

Run it: python tests/bench/bench_retention.py FOLDER           the whole: hours on two cores
        python tests/bench/bench_retention.py FOLDER --short   one seed, one order, fewer items: a smoke test
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
from retention_tasks import TASKS, Task, TaskRows, write_rows

from kfp_osft.pipelines.demo.example_model import example_model
from kfp_osft.pipelines.demo.wheels import cache_dir
from kfp_osft.pipelines.sequence.matrix import retention
from kfp_osft.shared.rows.chat_tokens import ChatTokenizer
from kfp_osft.shared.rows.files import read_rows
from kfp_osft.shared.rows.messages import Problems, Warnings
from kfp_osft.shared.rows.row_formats import conversations
from kfp_osft.stages.evaluate_model.measuring import HeldOutRows, measure
from kfp_osft.stages.launch_trainjob.local_engine import train_locally

#: What the trainer is given beside rate, rows and folders.
ARMS: dict[str, dict[str, Any]] = {
    "OSFT 0.25": {"unfreeze_rank_ratio": 0.25},
    "OSFT 0.1": {"unfreeze_rank_ratio": 0.1},
    # training_hub hands mini-trainer's own switch on.
    "plain": {"unfreeze_rank_ratio": 1.0, "osft": False},
}
JOINT = "joint"
RATES = (1e-5, 3e-5, 1e-4)
# Nats per token by which a loss may be higher and still count as equal: less than the next rate changes it.
_AS_WELL = 0.05


class Size(NamedTuple):
    """How much is done: training rows and test items of a task, seeds, orders of the tasks, and how many of the tasks
    each rate is tried on."""

    train: int
    test: int
    seeds: Sequence[int]
    orders: Sequence[Sequence[int]]
    rate_tasks: int


WHOLE = Size(320, 200, (1, 2, 3), ((0, 1, 2), (2, 1, 0)), 3)
SHORT = Size(320, 100, (1,), ((0, 1, 2),), 1)


class Learnt(NamedTuple):
    """One model after its training.

    Attributes:
        exact_match, loss: of the tasks' test items, by task: 0 to 1, and nats per token.
        general_loss: on the general texts of evaluate_model, nats per token.
        change: Frobenius norm of the projections' change since the first base, relative to that of the base's.
    """

    exact_match: dict[str, float]
    loss: dict[str, float]
    general_loss: float
    change: float


class Retained(NamedTuple):
    """The figures of one sequence.

    Attributes:
        average, when_learnt, backward_transfer: of the exact match, see retention; 0 to 1.
        loss, loss_backward_transfer: of the loss on the same items, nats per token.
        general_loss, change: of the last model, as in Learnt.
    """

    average: float
    when_learnt: float
    backward_transfer: float
    loss: float
    loss_backward_transfer: float
    general_loss: float
    change: float


class Bench:
    """Trains and measures, each once, in a folder.

    Args:
        folder: gets rows and results, and the models for as long as they are needed.
        size: how much is done.
    """

    def __init__(self, folder: Path, size: Size) -> None:
        # Results with fewer rows are others.
        self._folder = folder.resolve() / f"{size.train}_rows_{size.test}_items"
        self._size = size
        self._base = example_model(cache_dir())
        self._rows = {
            seed: [write_rows(task, self._folder / "rows", seed, size.train, size.test) for task in TASKS]
            for seed in size.seeds
        }

    def base(self) -> Learnt:
        """The first base, measured on all tasks."""
        return self._once("base", lambda: self._measured(self._base, range(len(TASKS))))

    def chosen_rates(self) -> dict[str, float]:
        """The rate of each arm: the lowest one that learns as well as the arm which learns least at its best rate."""
        tried = {arm: {rate: self._development(arm, rate) for rate in RATES} for arm in ARMS}
        target = max(min(loss for loss, _ in of_arm.values()) for of_arm in tried.values()) + _AS_WELL
        chosen = {arm: min(rate for rate in RATES if of_arm[rate][0] <= target) for arm, of_arm in tried.items()}
        print(f"\nLoss on development rows -> general loss, by rate; each arm takes the lowest rate below {target:.3f}")
        print(f"{'':<12}" + "".join(f"{rate:>18g}" for rate in RATES) + f"{'chosen':>10}")
        for arm, of_arm in tried.items():
            cells = "".join(f"{f'{loss:.3f} -> {general:.3f}':>18}" for loss, general in of_arm.values())
            print(f"{arm:<12}{cells}{chosen[arm]:>10g}")
        return chosen

    def sequence(self, arm: str, rate: float, seed: int, order: Sequence[int]) -> list[Learnt]:
        """The models after each task, each measured on the tasks up to it."""
        folder = self._folder / f"{arm}_{rate:g}_seed_{seed}_order_{''.join(map(str, order))}".replace(" ", "_")
        found = []
        for at, task in enumerate(order):
            before, here = folder / str(at - 1), folder / str(at)

            def learnt(before: Path = before, here: Path = here, at: int = at, task: int = task) -> Learnt:
                base = _model(before) if at else self._base
                model = self._trained(here, base, [self._rows[seed][task]], arm, rate, seed)
                return self._measured(model, order[: at + 1])

            found.append(self._once(f"{folder.name}_{at}", learnt))
            shutil.rmtree(before, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        return found

    def joint(self, rate: float, seed: int) -> Learnt:
        """Plain fine-tuning on the rows of all tasks at once."""
        folder = self._folder / f"joint_{rate:g}_seed_{seed}"

        def learnt() -> Learnt:
            model = self._trained(folder, self._base, self._rows[seed], "plain", rate, seed)
            return self._measured(model, range(len(TASKS)))

        found = self._once(folder.name, learnt)
        shutil.rmtree(folder, ignore_errors=True)
        return found

    def _development(self, arm: str, rate: float) -> tuple[float, float]:
        """Loss on the development rows and general loss, means over the tasks, each learnt from the base."""
        seed, losses = self._size.seeds[0], []
        for task, rows in list(zip(TASKS, self._rows[seed], strict=True))[: self._size.rate_tasks]:
            folder = self._folder / f"rate_{arm}_{rate:g}_{task.name}".replace(" ", "_")

            def learnt(folder: Path = folder, task: Task = task, rows: TaskRows = rows) -> Learnt:
                model = self._trained(folder, self._base, [rows], arm, rate, seed)
                return self._learnt(model, [HeldOutRows(task.name, rows.development, self._size.test)])

            found = self._once(folder.name, learnt)
            losses.append((found.loss[task.name], found.general_loss))
            shutil.rmtree(folder, ignore_errors=True)
        of_rows, general = (statistics.mean(each) for each in zip(*losses, strict=True))
        return of_rows, general

    def _trained(self, folder: Path, base: Path, rows: Sequence[TaskRows], arm: str, rate: float, seed: int) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        data = folder / "data.jsonl"
        self._write_samples([each.train for each in rows], data)
        arguments = {
            "model_path": str(base),
            "data_path": str(data),
            "data_output_dir": str(folder / "data"),
            "ckpt_output_dir": str(folder),
            "use_processed_dataset": True,
            "effective_batch_size": 16,
            "max_tokens_per_gpu": 2048,
            "max_seq_len": 512,
            "learning_rate": rate,
            "num_epochs": 1,
            "seed": seed,
            **ARMS[arm],
        }
        train_locally({"osft": arguments, "device": "cpu"}, {}, folder / "training.log")
        return _model(folder)

    def _write_samples(self, files: Sequence[Path], path: Path) -> None:
        from transformers import AutoTokenizer

        tokenizer, problems = ChatTokenizer(AutoTokenizer.from_pretrained(self._base)), Problems()
        with path.open("w", encoding="utf-8") as written:
            for file in files:
                for _, sample in tokenizer.samples(conversations(read_rows(file), False, problems, Warnings())):
                    counted = {"len": len(sample.input_ids), "num_loss_counted_tokens": sample.num_loss_counted_tokens}
                    written.write(
                        json.dumps({"input_ids": sample.input_ids, "labels": sample.labels, **counted}) + "\n"
                    )
        problems.raise_if_any()

    def _measured(self, model: Path, tasks: Sequence[int]) -> Learnt:
        rows = self._rows[self._size.seeds[0]]
        return self._learnt(model, [HeldOutRows(TASKS[at].name, rows[at].test, self._size.test) for at in tasks])

    def _learnt(self, model: Path, rows: Sequence[HeldOutRows]) -> Learnt:
        measures = measure(model, rows)
        return Learnt(
            {name: each.exact_match or 0.0 for name, each in measures.rows.items()},
            {name: each.loss for name, each in measures.rows.items()},
            measures.general_loss or 0.0,
            relative_change(self._base, model),
        )

    def _once(self, name: str, learn: Callable[[], Learnt]) -> Learnt:
        file = self._folder / "results" / f"{name}.json"
        if not file.is_file():
            learnt = learn()
            file.parent.mkdir(exist_ok=True)
            unfinished = file.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(learnt._asdict(), indent=1), encoding="utf-8")
            unfinished.replace(file)
            print(f"{name}: {learnt}", flush=True)
        return Learnt(**json.loads(file.read_text(encoding="utf-8")))


def relative_change(base: Path, model: Path) -> float:
    """|W' - W| / |W| over all matrices of the blocks' projections, Frobenius norm."""
    from safetensors import safe_open

    changed = total = 0.0
    with safe_open(base / "model.safetensors", "pt") as before, safe_open(model / "model.safetensors", "pt") as after:
        for name in before.keys():  # noqa: SIM118  (not a mapping)
            if name.endswith("_proj.weight"):
                old = before.get_tensor(name).double()
                changed += (after.get_tensor(name).double() - old).square().sum().item()
                total += old.square().sum().item()
    return (changed / total) ** 0.5


def retained(models: Sequence[Learnt], order: Sequence[int]) -> Retained:
    """The figures of the models of one sequence."""
    names = [TASKS[at].name for at in order]
    exact = retention([[model.exact_match[name] for name in names[: at + 1]] for at, model in enumerate(models)])
    loss = retention([[model.loss[name] for name in names[: at + 1]] for at, model in enumerate(models)])
    last = models[-1]
    return Retained(
        exact.average,
        exact.learnt,
        exact.backward_transfer,
        loss.average,
        loss.backward_transfer,
        last.general_loss,
        last.change,
    )


def _model(folder: Path) -> Path:
    (model,) = folder.glob("hf_format/samples_*")
    return model


def _print_table(base: Learnt, found: Mapping[str, Sequence[Retained]], joint: Sequence[Learnt]) -> None:
    heads = ("AA", "when learnt", "BWT", "loss", "loss BWT", "general loss", "change")
    print("\nExact match in percent, losses in nats per token, change of the projections in percent; mean (spread)")
    print(f"{'':<12}" + "".join(f"{head:>16}" for head in heads))
    _print_row("base", list(zip(_untaught(base), strict=True)))
    for arm, figures in found.items():
        _print_row(arm, list(zip(*figures, strict=True)))
    if joint:
        _print_row(JOINT, list(zip(*map(_untaught, joint), strict=True)))


def _untaught(model: Learnt) -> tuple[float | None, ...]:
    """The figures of a model that did not learn the tasks one after the other, as those of Retained."""
    exact, loss = (statistics.mean(each.values()) for each in (model.exact_match, model.loss))
    return exact, None, None, loss, None, model.general_loss, model.change


def _print_row(name: str, figures: Sequence[Sequence[float | None]]) -> None:
    """A row of the table: one figure a column, each with its value in every run."""
    cells = []
    for values, (scale, digits) in zip(figures, ((100, 1),) * 3 + ((1, 3),) * 3 + ((100, 2),), strict=True):
        known = [scale * value for value in values if value is not None]
        spread = f" ({statistics.stdev(known):.{digits}f})" if len(known) > 1 else ""
        cells.append(f"{statistics.mean(known):.{digits}f}{spread}" if known else "")
    print(f"{name:<12}" + "".join(f"{cell:>16}" for cell in cells))


def main() -> None:
    """Chooses the rates, learns the tasks with each arm, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="gets rows and results; a later call goes on with what is there")
    parser.add_argument("--short", action="store_true", help="fewer test items, one seed and one order")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 1 to N")
    parser.add_argument("--orders", type=int, choices=range(1, len(WHOLE.orders) + 1), help="orders of the tasks")
    parser.add_argument(
        "--rate",
        action="append",
        type=_rate,
        metavar="ARM=RATE",
        help=f"an arm ({', '.join(ARMS)}) and its rate, as an earlier call chose it: no rates are tried, and only the "
        "arms that are named are trained",
    )
    arguments = parser.parse_args()
    size = SHORT if arguments.short else WHOLE
    if arguments.seeds:
        size = size._replace(seeds=range(1, arguments.seeds + 1))
    if arguments.orders:
        size = size._replace(orders=WHOLE.orders[: arguments.orders])
    bench = Bench(arguments.folder, size)
    base, rates = bench.base(), dict(arguments.rate or ()) or bench.chosen_rates()
    runs = [(arm, seed, order) for seed in size.seeds for order in size.orders for arm in rates]
    found: dict[str, list[Retained]] = {arm: [] for arm in rates}
    for arm, seed, order in runs:
        found[arm].append(retained(bench.sequence(arm, rates[arm], seed, order), order))
    _print_table(base, found, [bench.joint(rates["plain"], seed) for seed in size.seeds if "plain" in rates])


def _rate(text: str) -> tuple[str, float]:
    arm, _, rate = text.partition("=")
    if arm not in ARMS:
        raise argparse.ArgumentTypeError(f"{text!r}: no such arm; allowed: {', '.join(ARMS)}")
    return arm, float(rate)


if __name__ == "__main__":
    main()
