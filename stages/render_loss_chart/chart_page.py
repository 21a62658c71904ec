"""The fixed parts of the loss chart's page: its own styles, the elements around the chart, and its script."""

STYLE = """
#bar { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 16px; margin: 18px 0 8px; }
#bar span { color: var(--muted); font-size: 12px; }
#zoom { flex: 1 1 200px; min-height: 27px; display: flex; align-items: center; }
.table { overflow-x: auto; margin: 26px 0 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: 15px; font-weight: 600; padding: 0 0 6px; }
th, td { padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 400; color: var(--muted); }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
thead th { color: var(--ink); font-weight: 600; }
#note { margin: 6px 0 0; color: var(--muted); font-size: 12px; }
#note:empty, #zoom [hidden] { display: none; }
fieldset { display: flex; align-items: center; margin: 0; padding: 0; border: 0; }
legend { float: left; padding: 0 8px 0 0; color: var(--muted); font-size: 12px; }
fieldset label { position: relative; }
fieldset input { position: absolute; opacity: 0; inset: 0; margin: 0; cursor: pointer; }
fieldset label span, button { display: inline-block; padding: 4px 11px; border: 1px solid var(--line);
  font: inherit; font-size: 12px; background: var(--page); color: var(--ink); cursor: pointer; }
#bar fieldset label span { color: var(--ink); }
fieldset label:first-of-type span { border-radius: 5px 0 0 5px; }
fieldset label:last-of-type span { border-radius: 0 5px 5px 0; border-left: 0; }
#bar fieldset input:checked + span { background: var(--ink); color: var(--page); border-color: var(--ink); }
fieldset input:focus-visible + span, button:focus-visible, #chart:focus-visible {
  outline: 2px solid var(--point); outline-offset: 2px; }
fieldset input:disabled + span { opacity: .45; cursor: not-allowed; }
button { border-radius: 5px; }
button[hidden] { display: none; }
#chart { position: relative; min-height: 560px; cursor: crosshair; touch-action: pan-y; user-select: none;
  -webkit-user-select: none; }
#view { overflow: hidden; }
#chart canvas { display: block; }
#over { position: absolute; inset: 0; pointer-events: none; overflow: hidden; }
#over > * { position: absolute; display: none; }
#line { width: 1px; background: var(--muted); }
#range { background: var(--point); opacity: .18; }
#over .dot { width: 9px; height: 9px; margin: -4.5px 0 0 -4.5px; border-radius: 50%;
  border: 2px solid var(--page); background: var(--ink); }
#tip { padding: 8px 11px; border: 1px solid var(--line); border-radius: 6px; background: var(--raised);
  box-shadow: 0 3px 12px rgb(0 0 0 / 18%); font-size: 12px; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
#tip b { display: block; margin-bottom: 3px; font-weight: 600; }
#tip div { display: flex; justify-content: space-between; gap: 18px; }
#tip div span:first-child { color: var(--muted); }
"""

DRAWING = """
<div id="bar">
<div id="zoom"><span>Hover, or press ← →, to read a step. Drag to zoom in; double-click or Esc zooms out.</span>
<button hidden>Zoom out</button></div>
<fieldset><legend>Loss scale</legend>
<label><input type="radio" name="scale" value="linear" checked><span>Linear</span></label>
<label><input type="radio" name="scale" value="log"><span>Log</span></label></fieldset>
<button id="save" hidden>Save PNG</button>
</div>
<div id="chart" tabindex="0" role="img" aria-label="Loss and other figures by step. The arrow keys move
 between steps, Escape zooms out."><div id="view"></div>
<div id="over"><div id="range"></div><div id="line"></div><div id="tip" role="status"></div></div></div>
<p id="note"></p>
<noscript>The chart needs JavaScript, which is disabled here.</noscript>
"""

# Pointer, zoom, width and color scheme. The names of scales, signals and groups ("x", "concat_0_y",
# "concat_0_height", "concat_0_group") are those Vega-Lite generates for charts stacked over one x scale.
SCRIPT = r"""
  "use strict";
  const { spec, columns, axis, margin, light, dark } = DATA;
  const by = (id) => document.getElementById(id);
  const [hint, out] = by("zoom").children;
  const chart = by("chart"), over = by("over"), tip = by("tip"), line = by("line"), range = by("range");
  const keys = Object.keys(columns), steps = columns.step;
  const rows = steps.map((_, at) => Object.fromEntries(keys.map((key) => [key, columns[key][at]])));
  const first = steps[0], last = steps[steps.length - 1];
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const dots = DATA.dots.map(([panel, key]) => {
    const dot = over.insertBefore(document.createElement("div"), tip);
    dot.className = "dot";
    return { dot, panel, key };
  });
  let view = null, drawing = 0, shown = [first, last], type = "linear", at = null, from = null;

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const whole = (value) => Math.round(value).toLocaleString("en");
  const power = (value) => (
    value === 0 ? "0" : value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e")
  );
  const round = (value) => (
    Math.abs(value) >= 0.1 && Math.abs(value) < 1000 ? value.toFixed(3) : power(value)
  );
  const text = { loss: round, power, whole };

  async function draw() {
    const turn = ++drawing;
    const config = scheme.matches ? dark : light;
    spec.datasets.steps = rows;
    spec.config = config;
    spec.vconcat[0].layer.forEach(({ encoding }) => {
      if (encoding.y && encoding.y.scale) encoding.y.scale.type = type;
    });
    for (const [name, value] of [["x0", shown[0]], ["x1", shown[1]]]) {
      spec.params.find((param) => param.name === name).value = value;
    }
    spec.vconcat.forEach((panel) => { panel.width = Math.max(120, chart.clientWidth - 64 - margin); });
    spec.vconcat[0].height = tall();
    const options = { mode: "vega-lite", renderer: "canvas", actions: false, tooltip: false };
    const drawn = await vegaEmbed("#view", spec, options);
    if (turn !== drawing) return drawn.finalize();
    if (view) view.finalize();
    view = drawn.view;
    await fit();
    document.documentElement.dataset.chart = "drawn";
    document.documentElement.dataset.plot = Math.round(view.width()) + "x" + tall();
  }

  // Vega-Lite names the height of a panel after it, but for a loss panel alone.
  const height = spec.vconcat.length > 1 ? "concat_0_height" : "height";
  const tall = () => Math.round(clamp(chart.clientWidth * 0.23, 270, 420));

  // The plot takes the width that the axis labels leave.
  async function fit() {
    if (!view) return;
    const width = Math.max(120, chart.clientWidth - places()[0].x - 20 - margin);
    if (Math.abs(width - view.width()) >= 1 || tall() !== view.signal(height)) {
      await view.width(width).signal(height, tall()).runAsync();
    }
    point(at);
  }

  // The position of each panel on the canvas: Vega's groups, offset by its origin.
  function places() {
    const [left, top] = view.origin();
    return view.scenegraph().root.items[0].items
      .filter((mark) => /^concat_\d+_group$/.test(mark.name))
      .map((mark) => mark.items[0])
      .map((group) => ({ x: left + group.x, y: top + group.y, width: view.width(), height: group.height }));
  }

  const put = (element, left, top, width, height) => Object.assign(element.style, {
    display: "block", left: left + "px", top: top + "px",
    width: width == null ? "" : width + "px", height: height == null ? "" : height + "px",
  });

  function nearest(event) {
    const place = places()[0];
    const x = clamp(event.clientX - chart.getBoundingClientRect().left - place.x, 0, place.width);
    const step = view.scale("x").invert(x);
    let low = 0, high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle; else high = middle;
    }
    const found = step - steps[low] < steps[high] - step ? low : high;
    return clamp(found, steps.indexOf(shown[0]), steps.indexOf(shown[1]));
  }

  // Shows a row's values beside a line through all panels; null hides them.
  function point(index) {
    at = index;
    if (index === null || !view) {
      for (const element of [line, tip, ...dots.map(({ dot }) => dot)]) element.style.display = "none";
      return;
    }
    const row = rows[index], all = places(), bottom = all[all.length - 1];
    const x = all[0].x + view.scale("x")(row.step);
    put(line, x, all[0].y, 1, bottom.y + bottom.height - all[0].y);
    for (const { dot, panel, key } of dots) {
      if (row[key] == null) dot.style.display = "none";
      else put(dot, x, all[panel].y + view.scale(`concat_${panel}_y`)(row[key]));
    }
    const entry = (name, value) => {
      const pair = document.createElement("div");
      for (const text of [name, value]) pair.appendChild(document.createElement("span")).textContent = text;
      return pair;
    };
    const head = document.createElement("b");
    head.textContent = axis + " " + whole(row.step) + (row.epoch == null ? "" : ", epoch " + whole(row.epoch));
    tip.replaceChildren(head, ...DATA.figures
      .filter(([, key]) => !(DATA.optional.includes(key) && row[key] == null))
      .map(([name, key, kind]) => entry(name, row[key] == null ? "NaN or infinite" : text[kind](row[key]))));
    put(tip, 0, 0);
    const room = chart.clientWidth - tip.offsetWidth;
    put(tip, clamp(x + 14 > room ? x - tip.offsetWidth - 14 : x + 14, 0, Math.max(0, room)), all[0].y + 8);
  }

  function zoom(low, high) {
    shown = [low, high];
    point(null);
    view.signal("x0", low).signal("x1", high).runAsync().then(fit);
    out.hidden = low === first && high === last;
    hint.hidden = !out.hidden;
    document.documentElement.dataset.shown = low + "-" + high;
  }

  chart.addEventListener("pointerdown", (event) => {
    if (!view || event.button !== 0) return;
    from = nearest(event);
    chart.setPointerCapture(event.pointerId);
  });
  chart.addEventListener("pointermove", (event) => {
    if (!view) return;
    const index = nearest(event);
    point(index);
    if (from === null) return;
    const all = places(), bottom = all[all.length - 1], x = view.scale("x");
    const ends = [steps[from], steps[index]].map((step) => all[0].x + x(step));
    const left = Math.min(...ends), right = Math.max(...ends);
    put(range, left, all[0].y, right - left, bottom.y + bottom.height - all[0].y);
  });
  chart.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const to = nearest(event), begin = from;
    stop();
    if (to !== begin) zoom(steps[Math.min(begin, to)], steps[Math.max(begin, to)]);
  });
  function stop() {
    from = null;
    range.style.display = "none";
  }
  chart.addEventListener("pointercancel", stop);
  chart.addEventListener("pointerleave", () => { if (from === null) point(null); });
  chart.addEventListener("dblclick", () => zoom(first, last));
  chart.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move && view) {
      const [low, high] = shown.map((step) => steps.indexOf(step));
      point(clamp(at === null ? (move > 0 ? low : high) : at + move, low, high));
      event.preventDefault();
    } else if (event.key === "Escape") {
      point(null);
      if (view) zoom(first, last);
    }
  });
  out.addEventListener("click", () => zoom(first, last));
  for (const input of document.querySelectorAll("input[name=scale]")) {
    input.addEventListener("change", () => { type = input.value; draw(); });
  }
  const losses = DATA.dots.filter(([panel]) => panel === 0).map(([, key]) => key);
  if (losses.some((key) => columns[key].some((loss) => loss !== null && loss <= 0))) {
    const log = document.querySelector("input[value=log]");
    log.disabled = true;
    log.parentElement.title = "A loss of 0 or less cannot be drawn on a log scale.";
  }
  // A sandboxed frame, such as KFP's, may not download.
  if (window.self === window.top) {
    by("save").hidden = false;
    by("save").addEventListener("click", async () => {
      const link = document.createElement("a");
      link.href = await view.toImageURL("png", 2);
      link.download = (document.title.replace(/[^\p{L}\p{N}.-]+/gu, "_").slice(0, 80) || "loss") + ".png";
      link.click();
    });
  }
  by("note").textContent = DATA.note;
  scheme.addEventListener("change", draw);
  new ResizeObserver(() => requestAnimationFrame(fit)).observe(chart);
  draw().catch((error) => {
    document.documentElement.dataset.chart = "failed";
    by("view").textContent = "The chart could not be drawn: " + error.message;
  });
"""
