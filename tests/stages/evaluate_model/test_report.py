"""The page of an evaluation: complete, harmless, and drawn without network."""

import re
import subprocess
from pathlib import Path

import pytest

from helpers.browser import find_chromium
from kfp_osft.stages.evaluate_model import comparison
from kfp_osft.stages.evaluate_model.benchmarks import Benchmark
from kfp_osft.stages.evaluate_model.measuring import Measure, ModelMeasures
from kfp_osft.stages.evaluate_model.options import TASK_NAME, Options
from kfp_osft.stages.evaluate_model.report import write_report
from kfp_osft.stages.evaluate_model.result import Evaluation, Models

HOSTILE = "</script><script>window.hacked=1</script><b>x</b>"


def measures(loss, answer):
    examples = [{"prompt": "Peru?", "expected": "Lima", "answer": answer}]
    return ModelMeasures(
        {"prose": Measure(3.0, 100, 1)},
        {TASK_NAME: Measure(loss, 50, 10, 0.4, 10, examples), HOSTILE: Measure(2.0, 60, 10)},
        {"arc": Benchmark("acc", 0.5, True, 20)},
    )


def page(tmp_path: Path, loss: float = 2.0) -> str:
    before, after = measures(4.0, "Oslo"), measures(loss, HOSTILE)
    figures = comparison.compared(before, after, TASK_NAME)
    models = Models(Path("/base"), Path("/tuned"), "org/base", HOSTILE)
    failures = comparison.failures(figures, Options().limits)
    write_report(Evaluation(models, before, after, figures, None, failures, Options()), tmp_path / "page.html")
    return (tmp_path / "page.html").read_text()


def test_it_shows_the_verdict_figures_and_examples_of_both_models(tmp_path):
    text = page(tmp_path)
    assert "<b>Passed.</b>" in text and "4.00 → 2.00" in text and "-50.0%" in text
    assert text.index("expected") < text.index("Oslo")
    assert "<b>Not passed:</b>" in page(tmp_path, loss=5.0)


def test_names_and_answers_are_text_in_it(tmp_path):
    text = page(tmp_path)
    assert HOSTILE not in text and "&lt;/script&gt;&lt;script&gt;window.hacked" in text


def test_it_refers_to_nothing_outside_itself(tmp_path):
    text = page(tmp_path)
    without_scripts = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"\b(src|href)=|@import|url\(", without_scripts) and len(text) < 2_000_000


@pytest.mark.slow
def test_a_browser_without_network_draws_it(tmp_path):
    page(tmp_path)
    command = [
        find_chromium(),
        *("--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"),
        (tmp_path / "page.html").as_uri(),
    ]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert 'data-chart="drawn"' in drawn
    assert len(re.findall(r'<svg\b[^>]*class="marks"', drawn)) == 2
