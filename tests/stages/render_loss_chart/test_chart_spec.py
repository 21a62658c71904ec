"""A specification that Vega-Lite accepts, with a panel for each field there is."""

import json
import math
import re

import pytest
import vl_convert

from helpers.synthetic_training import training
from kfp_osft.shared.pages.theme import DARK, LIGHT, chart_config, vega_lite_version
from kfp_osft.stages.render_loss_chart.chart_spec import RIGHT_MARGIN, chart_spec

LOSS_ALONE = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]
EVERYTHING = training(300, loss={40: math.nan}, val_loss={120: 2.0}, resumed_after={201: 200})
TRAININGS = pytest.mark.parametrize(
    "steps", [LOSS_ALONE, training(24), EVERYTHING], ids=["loss alone", "sound", "everything"]
)


def values_of(key: str, content: object) -> list:
    """Every value under a key, however deep."""
    if isinstance(content, list):
        return [found for inner in content for found in values_of(key, inner)]
    if not isinstance(content, dict):
        return []
    here = [content[key]] if key in content else []
    return here + values_of(key, list(content.values()))


@pytest.mark.parametrize(
    ("missing", "shown"),
    [
        ([], ["Learning rate", "Gradient norm", "Tokens per second"]),
        (["grad_norm"], ["Learning rate", "Tokens per second"]),
        (["lr", "grad_norm", "tokens_per_second"], []),
    ],
)
def test_each_field_that_a_step_has_gets_a_panel(missing, shown):
    steps = [{field: value for field, value in step.items() if field not in missing} for step in training(24)]
    below = chart_spec(steps, width=600)["vconcat"][1:]
    assert [panel["title"]["text"] for panel in below] == shown


def test_only_the_lowest_panel_has_the_title_of_the_steps():
    panels = chart_spec(training(24), width=600)["vconcat"]
    assert [set(values_of("title", values_of("x", panel))) for panel in panels] == [{None}] * 3 + [{"Step"}]


@TRAININGS
def test_every_dataset_that_is_named_is_in_the_specification(steps):
    spec = chart_spec(steps, width=600)
    named = {data["name"] for data in values_of("data", spec)}
    assert "steps" in named and named <= set(spec["datasets"])


@TRAININGS
def test_every_style_that_is_named_is_in_the_configuration(steps):
    named = set(values_of("style", chart_spec(steps, width=600)))
    assert "marked" in named and named <= set(chart_config(LIGHT)["style"])


@pytest.mark.parametrize(
    ("steps", "best_step", "names"),
    [
        (LOSS_ALONE, None, ["each step", "line between them"]),
        (training(24), None, ["each step", "rolling median of 5 steps"]),
        (
            training(24, resumed_after={10: 9}),
            None,
            ["each step", "rolling median of 5 steps", "resumed after step 9"],
        ),
        (
            training(2000, resumed_after={1201: 1200, 1501: 1500}),
            None,
            ["each step", "rolling median of 81 steps", "resumed after steps 1,200 and 1,500"],
        ),
        (
            training(24, resumed_after={4: 3, 10: 9, 15: 14}),
            None,
            ["each step", "rolling median of 5 steps", "resumed 3 times"],
        ),
        (
            EVERYTHING,
            1_120,
            [
                "each step",
                "rolling median of 13 steps",
                "validation loss",
                "best checkpoint, step 1,120",
                "NaN or infinite",
                "resumed after step 200",
            ],
        ),
    ],
    ids=["two steps", "sound", "resumed", "resumed twice", "resumed often", "everything"],
)
def test_the_legend_names_what_is_drawn_and_the_nan_among_it(steps, best_step, names):
    loss_panel = chart_spec(steps, 600, best_step)["vconcat"][0]
    named = values_of("values", values_of("legend", loss_panel))
    assert named and all(each == names for each in named)


@pytest.mark.parametrize(
    "steps", [[], training(1), LOSS_ALONE, EVERYTHING], ids=["none", "one", "loss alone", "everything"]
)
def test_vega_lite_accepts_the_specification(steps):
    spec = chart_spec(steps, width=600) | {"config": chart_config(LIGHT)}
    vega = vl_convert.vegalite_to_vega(json.dumps(spec, allow_nan=False), vl_version=vega_lite_version())
    # It leaves out an empty one, which no layer draws.
    filled = {name for name, rows in spec["datasets"].items() if rows}
    assert filled and filled <= {data["name"] for data in vega["data"]}


def test_both_color_schemes_differ_in_nothing_but_colors():
    assert list(LIGHT) == list(DARK)
    light, dark = (json.dumps(chart_config(scheme)) for scheme in (LIGHT, DARK))
    for name in LIGHT:
        light, dark = light.replace(LIGHT[name], name), dark.replace(DARK[name], name)
    assert light == dark and "#" not in light


def drawn_marks(steps: list[dict], width: int, log: bool) -> list[tuple[str, dict]]:
    """The loss panel's texts and points as Vega places them, with their kind."""
    spec = chart_spec(steps, width) | {"config": chart_config(LIGHT)}
    for layer in spec["vconcat"][0]["layer"]:
        if log and "scale" in layer["encoding"].get("y", {}):
            layer["encoding"]["y"]["scale"]["type"] = "log"
    found = vl_convert.vegalite_to_scenegraph(json.dumps(spec), vl_version=vega_lite_version())
    marks = []
    waiting = [found["scenegraph"]]
    while waiting:
        part = waiting.pop()
        if part.get("role") == "mark" and re.match(r"(concat_0_)?layer_\d+_marks", part.get("name", "")):
            marks += [(part["marktype"], item) for item in part["items"]]
        waiting += part.get("items", [])
    return marks


def text_box(item: dict) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a text, by the usual width of a letter."""
    lines = item["text"].split("\n")
    wide, high = 0.55 * item["fontSize"] * max(map(len, lines)), 14 * len(lines)
    x, y = item["x"] + item.get("dx", 0), item["y"] + item.get("dy", 0)
    left = x - wide * {"left": 0, "center": 0.5, "right": 1}[item.get("align", "left")]
    return left, y - 7, left + wide, y + high - 7


@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
@pytest.mark.parametrize(
    "steps",
    [
        training(2),
        training(24),
        training(24, loss={24: 1.0}),
        training(24, loss={24: 6.0}),
        training(24, loss={23: 1.0}, val_loss={24: 1.9}),
        training(300, 12),
        training(300, loss={1: 0.5, 300: math.nan}),
    ],
    ids=["two", "sound", "lowest last", "highest last", "validation", "many epochs", "lowest first"],
)
def test_labels_lie_on_no_point_and_on_no_other_label_and_within_the_page(steps, log):
    width = 430  # of a page of 600 pixels
    marks = drawn_marks(steps, width, log)
    # The halo is the same text once more.
    labels = {item["text"]: text_box(item) for kind, item in marks if kind == "text"}
    points = [(item["x"], item["y"]) for kind, item in marks if kind == "symbol"]
    assert any("lowest" in text for text in labels) and len(points) > 2
    for text, (left, top, right, bottom) in labels.items():
        assert left > -RIGHT_MARGIN and right < width + RIGHT_MARGIN + 20
        if "last finite" not in text:
            assert not [x for x, y in points if left < x < right and top < y < bottom], text
        for other, (left_2, top_2, right_2, bottom_2) in labels.items():
            assert text == other or right <= left_2 or right_2 <= left or bottom <= top_2 or bottom_2 <= top
