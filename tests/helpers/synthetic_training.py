"""Synthetic training metrics for the tests of the chart."""

import math
import random


def training(count: int, epochs: int = 3, **replaced) -> list[dict]:
    """Steps with the trainer's fields and a noisy loss that falls from about 5 to 1.7; deterministic.

    Args:
        count: number of steps.
        epochs: number of epochs.
        replaced: for a field, its value by step number.
    """
    chance = random.Random(7)
    steps = []
    for step in range(1, count + 1):
        done = step / count
        row = {
            "step": step,
            "epoch": (step - 1) * epochs // count,
            "lr": 1e-4 * (1 - done),
            "grad_norm": (0.9 + 2 * math.exp(-6 * done)) * math.exp(chance.gauss(0, 0.3)),
            "loss": (1.7 + 3.3 * math.exp(-6 * done)) * math.exp(chance.gauss(0, 0.05)),
            "num_samples": 32.0,
            "num_total_tokens": 3800.0,
            "time_per_batch": 1.1,
            "tokens_per_second": chance.gauss(3400, 120),
            "val_loss": None,
        }
        steps.append(row | {field: values[step] for field, values in replaced.items() if step in values})
    return steps
