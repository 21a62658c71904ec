"""The frame of an HTML page that needs no network: its head, colors for light and dark, and Vega's JavaScript.

KFP shows an HTML artifact through srcdoc in an iframe with sandbox="allow-scripts": scripts run, but there is no
network, localStorage or download, so a page uses none of these.
"""

import html
import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from kfp_osft.shared.pages.theme import DARK, FONT, LIGHT, vega_lite_version

_STYLE = """
* { box-sizing: border-box; }
body { margin: 0; padding: 20px 24px 16px; background: var(--page); color: var(--ink); font-size: 14px;
  line-height: 1.4; }
h1 { margin: 0; font-size: 20px; font-weight: 600; line-height: 1.25; overflow-wrap: anywhere; }
header p { margin: 3px 0 0; color: var(--muted); overflow-wrap: anywhere; }
#notes p { margin: 12px 0 0; padding: 9px 12px; border-left: 3px solid var(--alarm);
  background: var(--raised); border-radius: 0 4px 4px 0; max-width: 110ch; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px 16px;
  margin: 18px 0 0; max-width: 1250px; }
@media (max-width: 480px) { body { padding: 16px 14px 12px; } }
dt { color: var(--muted); font-size: 12px; }
dd { margin: 0; font-size: 17px; font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap; }
dd small { display: block; font-size: 12px; font-weight: 400; color: var(--muted); white-space: normal; }
"""


def framed_page(title: str, subtitle: str, body: str, style: str = "") -> str:
    """One self-contained page.

    Args:
        title: plain text; markup in it is escaped.
        subtitle: plain text below the title.
        body: HTML after the heading.
        style: rules after those that all pages have.
    """
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{html.escape(title)}</title>\n<style>\n",
            f":root {{ color-scheme: light dark; {_css_colors(LIGHT)} }}\n",
            f"@media (prefers-color-scheme: dark) {{ :root {{ {_css_colors(DARK)} }} }}\n",
            f"body {{ font-family: {FONT}; }}\n{_STYLE}{style}</style>\n</head>\n<body>\n",
            f"<header><h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p></header>\n",
            body,
            "</body>\n</html>\n",
        ]
    )


def figure_row(figures: Iterable[tuple[str, str, str]]) -> str:
    """A row of figures, as HTML: of each its title, its value, and what stands below it; all as HTML."""
    items = (f"<div><dt>{title}</dt><dd>{value}<small>{below}</small></dd></div>" for title, value, below in figures)
    return f"<dl>{''.join(items)}</dl>"


def script_data(data: Any) -> str:
    """JSON that can stand inside a <script> element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


@cache
def vega_bundle() -> str:
    """The JavaScript of Vega, Vega-Lite and Vega-Embed."""
    import vl_convert

    # Its stub requires `snippet`, which is optional.
    bundle = vl_convert.javascript_bundle(vl_version=vega_lite_version())  # pyright: ignore[reportCallIssue]
    if "</script" in bundle.lower() or "<!--" in bundle:
        raise RuntimeError("the JavaScript bundle of vl-convert-python cannot be embedded in a <script> element")
    return bundle


def _css_colors(colors: dict[str, str]) -> str:
    return "; ".join(f"--{name}: {value}" for name, value in colors.items())
