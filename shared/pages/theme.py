"""What the charts and pages look like: colors, font and Vega-Lite's configuration."""

from collections.abc import Sequence

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
#: Blue and orange shades after Okabe and Ito (2008), distinguishable with any kind of color vision.
LIGHT = {
    "page": "#ffffff",
    "raised": "#f5f6f8",
    "ink": "#1b1f27",
    "muted": "#5d6675",
    "line": "#e3e6eb",
    "point": "#56a3dc",
    "smoothed": "#0a4a86",
    "validation": "#d55e00",
    "panel": "#4c6a89",
    "best": "#00785a",
    "alarm": "#b3261e",
    "resumed": "#a04a82",
}
DARK = {
    "page": "#14171c",
    "raised": "#1e2229",
    "ink": "#eceff4",
    "muted": "#a0a9b8",
    "line": "#2c323b",
    "point": "#4796d2",
    "smoothed": "#b5dcfa",
    "validation": "#f2a13c",
    "panel": "#9db6d0",
    "best": "#4fd1a5",
    "alarm": "#ff8a80",
    "resumed": "#e79bc8",
}


def chart_config(colors: dict[str, str], series: Sequence[str] = ()) -> dict:
    """Vega-Lite's configuration for one color scheme, with all colors and font sizes.

    Args:
        colors: LIGHT or DARK.
        series: colors of the series in the legend's order; those of one training's chart when empty.
    """
    series = list(series) or [colors[name] for name in ("point", "smoothed", "validation", "best", "alarm", "resumed")]
    text = {"font": FONT, "color": colors["ink"], "fontSize": 12}
    return {
        "font": FONT,
        "background": colors["page"],
        "view": {"stroke": None},
        "range": {"category": series},
        "axis": {
            "domain": False,
            "ticks": False,
            "grid": True,
            "gridColor": colors["line"],
            "domainColor": colors["muted"],
            "tickColor": colors["muted"],
            "labelColor": colors["muted"],
            "labelFontSize": 11,
            "labelPadding": 6,
            "titleColor": colors["muted"],
            "titleFontSize": 11,
            "titleFontWeight": "normal",
        },
        "axisX": {"grid": False},
        "axisY": {"minExtent": 44, "maxExtent": 44},
        "legend": {
            "labelColor": colors["ink"],
            "labelFontSize": 12,
            "titleColor": colors["ink"],
            "titleFontSize": 13,
            "titleFontWeight": 600,
            "titlePadding": 12,
            "columnPadding": 18,
            "symbolSize": 90,
            "symbolStrokeWidth": 2.5,
        },
        "title": {
            "color": colors["ink"],
            "subtitleColor": colors["muted"],
            "fontSize": 19,
            "fontWeight": 600,
            "subtitleFontSize": 13,
            "subtitlePadding": 7,
            "anchor": "start",
            "offset": 18,
        },
        "style": {
            "panel": {"color": colors["panel"], "strokeWidth": 1.25},
            "epoch": {"color": colors["muted"], "strokeWidth": 1, "strokeDash": [2, 3], "opacity": 0.6},
            "epoch-label": {**text, "color": colors["muted"], "fontSize": 11},
            "marked": {"color": colors["ink"]},
            "marked-label": {**text, "fontWeight": 600},
            "marked-halo": {
                **text,
                "fontWeight": 600,
                "stroke": colors["page"],
                "strokeWidth": 4,
                "strokeJoin": "round",
            },
            "best": {"strokeWidth": 1.5},
            "resumed": {"strokeWidth": 1.5, "strokeDash": [6, 4]},
            "broken": {
                "color": colors["alarm"],
                "fillOpacity": 0.12,
                "stroke": colors["alarm"],
                "strokeOpacity": 0.35,
            },
        },
    }


def vega_lite_version() -> str:
    """The Vega-Lite version that this Altair targets, as vl-convert names it (6.4)."""
    import altair

    return ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
