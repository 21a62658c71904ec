"""The content of the chart's page, and that a browser without network draws it."""

import json
import math
import os
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from helpers.browser import find_chromium, look
from helpers.places import TESTS
from helpers.synthetic_training import training
from kfp_osft.stages.render_loss_chart.chart import RunFacts, write_chart_page, write_chart_png

MEGABYTE = 1_000_000


def rendered(tmp_path: Path, steps: list[dict], title: str = "A model", subtitle: str = "") -> str:
    path = tmp_path / "chart.html"
    write_chart_page(steps, path, RunFacts(title=title, subtitle=subtitle))
    return path.read_text()


def drawn_data(page: str) -> dict:
    """The data that the page's own script is called with."""
    return json.loads(re.search(r"\n\}\)\((\{.*\})\);\n</script>", page)[1])


class Elements(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.texts: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found:
            tag = self.found[-1][0]
            self.texts[tag] = self.texts.get(tag, "") + data


# ---- the page's content


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    page = rendered(tmp_path, training(24, val_loss={12: 2.0}))
    elements = Elements(page).found
    loading = {"src", "href", "srcset", "data", "poster", "action", "formaction", "background", "http-equiv"}
    assert [(tag, attributes) for tag, attributes in elements if loading & set(attributes)] == []
    assert not {"link", "base", "iframe", "object", "embed", "img"} & {tag for tag, _ in elements}
    assert not re.search(r"@import|url\(", "".join(re.findall(r"<style>.*?</style>", page, re.DOTALL)))
    assert not re.search(r"\bimport\s*\(|\bimportScripts\b|new Worker|new WebSocket|new EventSource", page)
    assert '"url"' not in json.dumps(drawn_data(page))


@pytest.mark.parametrize(("count", "most"), [(2, 1.0), (24, 1.0), (6_000, 1.5), (100_000, 1.5)])
def test_the_page_stays_below_two_megabytes(tmp_path, count, most):
    assert len(rendered(tmp_path, training(count)).encode()) < most * MEGABYTE


def test_the_page_stays_below_two_megabytes_in_the_worst_case(tmp_path):
    odd = range(1, 60_001, 2)
    steps = training(60_000, 60_000, loss=dict.fromkeys(odd, math.nan))
    for step in steps:
        step |= {"val_loss": step["step"] / 7, "val_num_samples": 1.0}
    assert len(rendered(tmp_path, steps).encode()) < 2 * MEGABYTE


def test_a_hundred_thousand_steps_are_under_two_megabytes_and_the_same_bytes_in_another_process(tmp_path):
    here = rendered(tmp_path, training(100_000, 20))
    assert len(here.encode()) < 2 * MEGABYTE
    # With another hash seed: the bytes must not depend on it. (Time and memory: tests/bench/bench_loss_chart.py)
    script = (
        "import sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(TESTS)!r})\n"
        "from helpers.synthetic_training import training\n"
        "from kfp_osft.stages.render_loss_chart.chart import RunFacts, write_chart_page\n"
        "write_chart_page(training(100_000, 20), Path(sys.argv[1]), RunFacts(title='A model', subtitle=''))\n"
    )
    there = tmp_path / "there.html"
    subprocess.run([sys.executable, "-c", script, str(there)], env={**os.environ, "PYTHONHASHSEED": "1"}, check=True)
    assert there.read_text() == here


def test_the_same_input_gives_the_same_bytes(tmp_path):
    assert rendered(tmp_path, training(50)) == rendered(tmp_path, training(50))


def test_the_drawn_values_are_those_of_the_training(tmp_path):
    steps = training(24)
    columns = drawn_data(rendered(tmp_path, steps))["columns"]
    assert columns["step"] == list(range(1, 25)) and columns["epoch"] == [1] * 8 + [2] * 8 + [3] * 8
    for field in ("loss", "lr", "grad_norm", "tokens_per_second"):
        assert columns[field] == pytest.approx([step[field] for step in steps], rel=1e-4)


def test_one_duration_is_shown_the_whole_training_where_that_is_known(tmp_path):
    path = tmp_path / "chart.html"
    write_chart_page(training(24), path, RunFacts(title="A model", subtitle="Ratio 0.25", seconds=278.0))
    assert "4 min 38 s<small>whole training" in path.read_text() and "26 s" not in path.read_text()
    assert "26 s<small>steps alone" in rendered(tmp_path, training(24))


def test_the_page_says_how_to_read_zoom_and_walk(tmp_path):
    page = rendered(tmp_path, training(24))
    assert "Hover, or press ← →, to read a step. Drag to zoom in; double-click or Esc zooms out." in page


def test_of_a_single_step_the_page_says_what_to_change(tmp_path):
    page = rendered(tmp_path, training(1, num_samples={1: 200.0}))
    assert "lower training_effective_batch_size, or raise training_num_epochs" in page
    assert "From the same 200 samples, a batch size of 10 would have made 20 steps." in page


def test_nan_in_between_is_reported_and_shown_as_a_gap(tmp_path):
    page = rendered(tmp_path, training(24, loss={7: math.nan, 8: math.inf, 20: math.nan}))
    assert "The loss was NaN or infinite in 3 of 24 steps, first at step 7." in page
    assert [drawn_data(page)["columns"][column][6] for column in ("loss", "smoothed")] == [None, None]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "The training logged no step."),
        (training(1), "There is no curve to draw of a single step"),
        (training(3, loss=dict.fromkeys((1, 2, 3), math.nan)), "from the first step on, in all 3 steps"),
    ],
)
def test_a_training_without_a_curve_gets_a_page_that_says_so_and_no_chart(tmp_path, steps, said):
    page = rendered(tmp_path, steps, title="A model")
    assert said in page and "<h1>A model</h1>" in page and "<script>" not in page


HOSTILE = '</script><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>${1}{title}<!--&amp;'


@pytest.mark.parametrize("count", [0, 24])
def test_markup_in_names_is_shown_as_text(tmp_path, count):
    page = rendered(tmp_path, training(count), title=HOSTILE, subtitle=HOSTILE)
    elements = Elements(page)
    assert elements.texts["h1"] == elements.texts["title"].strip() == HOSTILE
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in elements.found)
    assert page.count("</script>") == (2 if count else 0)


@pytest.mark.parametrize(
    "name", ["a\x07b", "a\x1b[31mb", "a\x00b", "a\udcff", "a\uffffb", "a\u202eb\x85\u2028", "a\nb", "x" * 100_000]
)
def test_a_name_that_no_svg_can_hold_does_not_end_the_drawing(tmp_path, name):
    # vl-convert would end the process.
    steps = training(8)
    write_chart_page(steps, tmp_path / "chart.html", RunFacts(title=name, subtitle=name))
    write_chart_png(steps, tmp_path / "chart.png", RunFacts(title=name, subtitle=name))
    page = (tmp_path / "chart.html").read_text(encoding="utf-8")
    assert name not in page and len(page) < 2_000_000
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_loss_with_more_than_the_cross_entropy_has_no_perplexity(tmp_path):
    path = tmp_path / "chart.html"
    write_chart_page(training(24), path, RunFacts("A mixture of experts", loss_is_cross_entropy=False))
    assert "perplexity" not in path.read_text() and "perplexity" in rendered(tmp_path, training(24))


def test_the_chart_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    earlier = rendered(tmp_path, training(3))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        rendered(tmp_path, training(24))
    assert (tmp_path / "chart.html").read_text() == earlier
    assert [path.name for path in tmp_path.iterdir()] == ["chart.html"]


# ---- the PNG


@pytest.mark.parametrize("count", [0, 1, 2, 24, 7_000])
def test_the_png_has_a_readable_width_and_a_sane_size(tmp_path, count):
    path = tmp_path / "chart.png"
    write_chart_png(training(count), path, RunFacts(title=HOSTILE, subtitle="Ratio 0.25"))
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and len(content) < 0.6 * MEGABYTE
    assert 1300 < width < 1600 and height > (900 if count > 1 else 80)


# ---- in a browser


@pytest.fixture(scope="module")
def chromium() -> str:
    return find_chromium()


def long_training() -> list[dict]:
    """Of 34 hours, with all that a page can show."""
    steps = training(8_996, loss=dict.fromkeys(range(8000, 8500), math.nan), val_loss={3_000: 2.2, 6_000: 2.0})
    return [step | {"time_per_batch": 13.82, "num_total_tokens": 1.4e6, "peak_memory_usage_GB": 71.4} for step in steps]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "plot", "sandboxed"),
    [(375, (200, 260), True), (600, (400, 480), False), (1000, (800, 880), True), (1600, (1400, 1500), False)],
)
def test_the_chart_is_drawn_offline_at_the_available_width_and_nothing_is_cut_or_collides(
    chromium, tmp_path, width, plot, sandboxed
):
    path = tmp_path / "chart.html"
    facts = RunFacts("OSFT of Qwen2.5-1.5B-Instruct", "rows.jsonl, 20,000 samples", seconds=124_320, best_step=6_000)
    write_chart_page(long_training(), path, facts)
    found = look(chromium, path.read_text(), tmp_path, width, sandboxed)
    assert (found["chart"], found["errors"], found["loaded"]) == ("drawn", [], [])
    assert found["wide"] and plot[0] < int(found["plot"].split("x")[0]) < plot[1]
    assert (found["outside"], found["overlapping"]) == ([], [])
    assert found["colors"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("sandboxed", [False, True])
def test_hover_zoom_keys_and_scale_work(chromium, tmp_path, sandboxed):
    found = look(chromium, rendered(tmp_path, training(3_000)), tmp_path, 1000, sandboxed)
    assert found["errors"] == []
    step = int(re.match(r"Step ([\d,]+), epoch 2\n", found["tip"])[1].replace(",", ""))
    assert abs(step - 1_500) < 30 and "Learning rate" in found["tip"] and "Tokens per second" in found["tip"]
    low, high = map(int, found["zoomed"].split("-"))
    assert abs(low - 1_500) < 30 and abs(high - 2_400) < 30
    assert found["back"] == "1-3000" and found["walked"] == "Step 1, epoch 1"
    assert found["log"]
    assert found["save"] is not sandboxed


@pytest.mark.slow
@pytest.mark.parametrize(("dark", "color"), [(False, "255, 255, 255"), (True, "20, 23, 28")])
def test_page_and_chart_follow_the_color_scheme(chromium, tmp_path, dark, color):
    found = look(chromium, rendered(tmp_path, training(24)), tmp_path, dark=dark)
    assert found["background"] == f"rgb({color})" and found["corner"] == color.replace(" ", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps",
    [
        training(2),
        training(10, loss=dict.fromkeys(range(1, 11), 2.0), lr=dict.fromkeys(range(1, 11), 0.0)),
        training(300, loss={40: math.nan, 41: math.nan, 300: math.inf}),
        training(24, val_loss={12: 2.0}),
        [{"step": step, "loss": 3.0 - step / 1000} for step in range(1, 1000)],
        training(100_000, 20),
    ],
    ids=["two steps", "flat", "NaN in between", "validation", "loss alone", "100,000 steps"],
)
def test_every_kind_of_training_is_drawn(chromium, tmp_path, steps):
    found = look(chromium, rendered(tmp_path, steps), tmp_path, sandboxed=True)
    assert (found["chart"], found["errors"]) == ("drawn", [])


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 24])
def test_javascript_in_names_does_not_run(chromium, tmp_path, count):
    page = rendered(tmp_path, training(count), title=HOSTILE, subtitle=HOSTILE)
    found = look(chromium, page, tmp_path, sandboxed=True)
    assert (found["title"], found["hacked"], found["errors"], found["loaded"]) == (HOSTILE, False, [], [])
