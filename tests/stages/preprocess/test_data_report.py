import pytest

from kfp_osft.stages.preprocess.data_report import DataReport, marked_text, planned_training, report_lines
from kfp_osft.stages.preprocess.processed_rows import ProcessedRow


@pytest.mark.parametrize(
    ("lengths", "figures"),
    [
        ([30], (30, 30, 30)),
        ([20, 30], (20, 30, 30)),
        (range(20, 120), (69, 114, 119)),
        ([25] * 95 + [80] * 5, (25, 25, 80)),
        ([25] * 94 + [80] * 6, (25, 80, 80)),
    ],
)
def test_lengths_are_given_by_median_95th_percentile_and_longest(lengths: list[int], figures: tuple):
    report = DataReport(200)
    for length in lengths:
        assert not report.drops("row", length)
        report.keep(length, 10)

    assert tuple(report.to_dict()["tokens_of_a_sample"].values()) == figures
    assert report.to_dict()["loss_share"] == round(10 * len(lengths) / sum(lengths), 4)


def test_rows_at_the_limits_are_dropped_as_training_hub_drops_them():
    report = DataReport(40)

    assert [length for length in (0, 19, 20, 39, 40, 41) if report.drops(f"row {length}", length)] == [0, 19, 40, 41]
    report.keep(20, 5)
    assert report.to_dict()["dropped_in_words"] == (
        "2 with 40 tokens or more (training_max_seq_len) (row 40; row 41); 2 with fewer than 20 tokens "
        "(row 0; row 19); the longest row has 41"
    )


def test_a_long_sample_is_truncated_in_the_log_only():
    report = DataReport(40)
    report.keep(20, 5)
    told = report.to_dict() | {"sample": "x" * 5000}
    told["training"] = planned_training(told, {"effective_batch_size": 1, "num_epochs": 1}, 1)

    assert report_lines(told)[-1].splitlines()[-1] == "    " + "x" * 4000 + " ..." and len(told["sample"]) == 5000


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([-100, -100, 2, 3], "ab[[cd]]"),
        ([0, 1, 2, 3], "[[abcd]]"),
        ([-100] * 4, "abcd"),
        ([0, -100, 2, -100], "[[a]]b[[c]]d"),
    ],
)
def test_each_run_of_tokens_with_loss_is_marked(labels: list[int], text: str):
    sample = ProcessedRow([0, 1, 2, 3], labels)

    assert marked_text(sample, lambda ids: "".join("abcd"[token] for token in ids)) == text


@pytest.mark.parametrize(
    ("samples", "batch", "epochs", "steps", "warnings"),
    [
        (1280, 128, 1, 10, []),
        (1281, 128, 2, 22, []),
        (
            100,
            128,
            3,
            3,
            [
                "training_effective_batch_size=128 exceeds the 100 samples, so each epoch is a single step",
                "the training has only 3 steps, which hardly changes a model; lower training_effective_batch_size, "
                "raise training_num_epochs, or give more rows",
            ],
        ),
    ],
)
def test_the_steps_of_the_training_are_logged_before_it(samples, batch, epochs, steps, warnings):
    planned = planned_training(
        {"samples": samples, "tokens": 1000}, {"effective_batch_size": batch, "num_epochs": epochs}, 2
    )

    assert planned == {
        "steps": steps,
        "epochs": epochs,
        "effective_batch_size": batch,
        "workers": 2,
        "tokens": 1000 * epochs,
        "warnings": warnings,
    }
