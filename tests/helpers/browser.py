"""A real browser that opens a chart's page without network, does what a person does, and reports what came of it."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

# Runs in the page: waits until the chart is drawn, does what a person does, and hands on what came of it.
PROBE = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
async function probe() {
  const root = document.documentElement, pause = () => new Promise((done) => setTimeout(done, 300));
  const result = { errors, title: document.querySelector("h1").textContent, hacked: window.hacked === 1 };
  const chart = document.querySelector("#chart");
  for (let tries = 0; chart && !root.dataset.chart && tries < 60; tries++) await pause();
  await pause();
  if (chart) {
    const canvas = () => chart.querySelector("canvas");
    const pixels = () => canvas().getContext("2d").getImageData(0, 0, canvas().width, canvas().height).data;
    const colors = new Set(), data = pixels();
    for (let at = 0; at < data.length; at += 4) colors.add(data[at] << 16 | data[at + 1] << 8 | data[at + 2]);
    const box = chart.getBoundingClientRect();
    // Of each text of the page, outside the canvas.
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), boxes = [];
    while (walker.nextNode()) {
      const { parentElement, textContent } = walker.currentNode, range = document.createRange();
      if (!textContent.trim() || parentElement.closest("script, noscript, #result, #tip")) continue;
      range.selectNodeContents(walker.currentNode);
      const place = range.getBoundingClientRect();
      if (place.width) boxes.push([textContent, place]);
    }
    result.outside = boxes.filter(([, one]) => one.left < 0 || one.right > innerWidth).map(([text]) => text);
    result.overlapping = boxes.flatMap(([text, one], at) => boxes.slice(at + 1)
      .filter(([, two]) => one.left < two.right && two.left < one.right && one.top < two.bottom - 1
        && two.top < one.bottom - 1)
      .map(([other]) => text + " / " + other));
    const send = (type, share) => chart.dispatchEvent(new PointerEvent(type, { pointerId: 1, button: 0,
      clientX: box.left + 44 + (box.width - 112) * share, clientY: box.top + 90 }));
    chart.setPointerCapture = () => {};
    Object.assign(result, { chart: root.dataset.chart, plot: root.dataset.plot, colors: colors.size,
      background: getComputedStyle(document.body).backgroundColor, corner: data.slice(0, 3).join(","),
      wide: root.scrollWidth <= root.clientWidth && canvas().clientWidth <= chart.clientWidth,
      save: !document.querySelector("#save").hidden });
    send("pointermove", 0.5);
    result.tip = document.querySelector("#tip").innerText;
    send("pointerdown", 0.5); send("pointermove", 0.8); send("pointerup", 0.8);
    await pause();
    result.zoomed = root.dataset.shown;
    chart.dispatchEvent(new MouseEvent("dblclick"));
    await pause();
    result.back = root.dataset.shown;
    chart.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
    result.walked = document.querySelector("#tip b").innerText;
    const linear = pixels().join();
    document.querySelector("input[value=log]").click();
    await pause(); await pause();
    result.log = root.dataset.chart === "drawn" && pixels().join() !== linear;
  }
  result.loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
  parent.postMessage(JSON.stringify(result), "*");
}
addEventListener("load", probe);
</script>"""
LISTENER = """<pre id="result"></pre><script>
addEventListener("message", (event) => { document.getElementById("result").textContent = event.data; });
</script>"""


def find_chromium() -> str:
    """The browser's command; skips the test where there is none, but in CI."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    if os.environ.get("CI"):
        pytest.fail("no chromium, chromium-browser or google-chrome on PATH, which CI must install")
    pytest.skip("no chromium, chromium-browser or google-chrome on PATH")


def look(
    chromium: str, page: str, tmp_path: Path, width: int = 1000, sandboxed: bool = False, dark: bool = False
) -> dict:
    """What the probe found in the page, opened alone or as the KFP UI does."""
    page = page.replace("<head>", "<head>" + PROBE, 1)
    if sandboxed:
        size = f'width="{width}" height="900"'
        frame = f'<iframe sandbox="allow-scripts" {size} srcdoc="{html.escape(page)}"></iframe>'
        page = f"<!DOCTYPE html><body>{LISTENER}{frame}</body>"
    else:
        before, end, after = page.rpartition("</body>")
        page = before + LISTENER + end + after
    file = tmp_path / "browsed.html"
    file.write_text(page)
    command = [
        chromium,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND"),
        # The budget of virtual time below does not wait for a frame in a process of its own.
        "--disable-features=IsolateSandboxedIframes",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        *("--virtual-time-budget=30000", "--dump-dom", file.as_uri()),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="result">(.+?)</pre>', result.stdout)
    assert found, f"no report of the page; chromium ended with {result.returncode}: {result.stderr[-2000:]}"
    return json.loads(html.unescape(found[1]))
