"""shared/loss_chart_spec.py: a specification that Vega-Lite takes, with a panel for each field there is."""

import json
import math

import pytest
import vl_convert
from synthetic_training import training

from kfp_osft.shared.loss_chart_spec import DARK, LIGHT, chart_config, chart_spec, vega_lite_version

LOSS_ALONE = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]
EVERYTHING = training(300, loss={40: math.nan}, val_loss={120: 2.0})
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
def test_a_panel_is_there_for_each_field_that_a_step_has(missing, shown):
    steps = [{field: value for field, value in step.items() if field not in missing} for step in training(24)]
    below = chart_spec(steps, width=600)["vconcat"][1:]
    assert [panel["title"]["text"] for panel in below] == shown


def test_the_lowest_panel_alone_has_the_title_of_the_steps():
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
    ("steps", "names"),
    [
        (LOSS_ALONE, ["each step", "line between them"]),
        (training(24), ["each step", "rolling median of 5 steps"]),
        (EVERYTHING, ["each step", "rolling median of 13 steps", "validation loss"]),
    ],
    ids=["two steps", "sound", "with validation"],
)
def test_the_legend_names_what_is_drawn(steps, names):
    loss_panel = chart_spec(steps, width=600)["vconcat"][0]
    domains = values_of("domain", values_of("color", loss_panel))
    assert domains and all(domain == names for domain in domains)


@pytest.mark.parametrize(
    "steps", [[], training(1), LOSS_ALONE, EVERYTHING], ids=["none", "one", "loss alone", "everything"]
)
def test_vega_lite_takes_the_specification(steps):
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
