"""Time, memory and size of the loss chart of a long training, compared with a short one.

Run it: python tests/bench/bench_loss_chart.py
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

_ROUNDS = 3
_SHORT, _LONG = 1_000, 100_000
# VmHWM rather than getrusage, whose value a child inherits from its parent.
_PROGRAM = """
import json, re, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers.synthetic_training import training
from kfp_osft.stages.render_loss_chart.chart import RunFacts, write_chart_page, write_chart_png
steps, page = training(int(sys.argv[2]), 20), Path(tempfile.mkdtemp()) / "chart.html"
start = time.monotonic()
write_chart_page(steps, page, RunFacts(title="A model", subtitle=""))
seconds = time.monotonic() - start
picture = page.with_suffix(".png")
write_chart_png(steps, picture, RunFacts(title="A model", subtitle=""))
both = time.monotonic() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps({"page, seconds": seconds, "picture, seconds": both - seconds, "peak memory, MB": peak / 1000,
                  "page, MB": page.stat().st_size / 1e6, "picture, MB": picture.stat().st_size / 1e6}))
"""


def _measure(steps: int) -> dict[str, float]:
    command = [sys.executable, "-c", _PROGRAM, str(Path(__file__).parent.parent), str(steps)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    # Alternating, so that both run under the same load.
    rounds = [(_measure(_SHORT), _measure(_LONG)) for _ in range(_ROUNDS)]
    print(f"median of {_ROUNDS}      {_SHORT:>10,} steps {_LONG:>10,} steps      ratio")
    for figure in rounds[0][0]:
        short, long = (statistics.median(run[which][figure] for run in rounds) for which in (0, 1))
        ratio = statistics.median(run[1][figure] / run[0][figure] for run in rounds)
        print(f"{figure:<18}{short:>12.2f}{long:>18.2f}{ratio:>15.2f}")


if __name__ == "__main__":
    main()
