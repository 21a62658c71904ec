"""Pulls that are cut, throttled, stalled or killed."""

import os
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fakes.registry import Gate, Layout, Registry
from helpers.errors import error_of
from helpers.files import contents
from helpers.oci_models import MODEL, below, is_clean, needs_registry, start_pull
from helpers.waiting import wait_until
from kfp_osft.shared.oci import registry as oci_registry
from kfp_osft.shared.oci.registry import parse_reference
from kfp_osft.shared.reporting import progress
from kfp_osft.stages.preprocess.oci.model import pull_model


@needs_registry
def test_after_a_cut_connection_only_missing_layers_are_pulled(
    registry: Registry, push: Callable, layout: Layout, workspace: Path, capsys: pytest.CaptureFixture
):
    layers = [layout.tar(below("models")), layout.tar({"models/vocab.json": b"{}" * 40_000})]
    with Gate(registry) as gate:
        # More than the tries, were none to get further.
        gate.cuts = 2
        model = pull_model(gate.through(push(*layers)), workspace)

    assert contents(model) == MODEL | {"vocab.json": b"{}" * 40_000}
    assert "trying again" in capsys.readouterr().out or gate.asked.total() > 3
    assert is_clean(workspace)


@needs_registry
@pytest.mark.parametrize("statuses", [[429], [503, 500, 502]])
def test_a_busy_registry_is_retried(
    registry: Registry, push: Callable, layout: Layout, workspace: Path, statuses: list[int]
):
    with Gate(registry) as gate:
        gate.statuses = list(statuses)
        assert contents(pull_model(gate.through(push(layout.tar(below("models")))), workspace)) == MODEL
        assert not gate.statuses


@needs_registry
def test_a_connection_that_is_always_cut_is_reported(
    registry: Registry, push: Callable, layout: Layout, workspace: Path
):
    with Gate(registry) as gate:
        gate.cuts = 1000
        reference = gate.through(push(layout.tar(below("models"))))
        message = error_of(pull_model, reference, workspace)

    assert message.startswith(f"training_base_model={reference}: cannot be copied (skopeo: ")
    assert "EOF" in message
    assert not list(workspace.rglob("config.json"))


@needs_registry
def test_a_stalled_connection_is_given_up(
    registry: Registry, push: Callable, layout: Layout, workspace: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(oci_registry, "_SECONDS_OF_SLOWNESS", 1)
    monkeypatch.setattr(oci_registry, "_ATTEMPTS", 2)
    with Gate(registry) as gate:
        gate.hang = True
        reference = gate.through(push(layout.tar(below("models"))))
        assert (
            error_of(pull_model, reference, workspace) == f"training_base_model={reference}: only 0 bytes came in 1 s"
        )


@needs_registry
def test_progress_is_logged(
    registry: Registry,
    push: Callable,
    layout: Layout,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 1)
    with Gate(registry) as gate:
        gate.bytes_per_second = 60_000
        pull_model(gate.through(push(layout.tar(below("models")))), workspace)

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Pulled: ")]
    form = re.compile(r"Pulled: [\d.]+ KiB of [\d.]+ KiB, [\d.]+ KiB/s, [\d.]+ s left")
    assert lines and all(map(form.fullmatch, lines))


@needs_registry
def test_a_pull_killed_while_pulling_resumes_with_the_missing_layers(
    registry: Registry, push: Callable, layout: Layout, workspace: Path
):
    small, large = layout.tar(below("models")), layout.tar({"models/vocab.json": random.Random(1).randbytes(2_000_000)})
    with Gate(registry) as gate:
        gate.bytes_per_second = 100_000
        reference = gate.through(push(small, large))
        process = start_pull(reference, workspace)
        blob = small["digest"].removeprefix("sha256:")
        wait_until(lambda: list(workspace.rglob(blob)))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not list(workspace.rglob("config.json"))
        # skopeo goes with it.
        repository = parse_reference(reference, "uri").repository
        wait_until(
            lambda: not [
                process
                for process in psutil.process_iter(["cmdline"])
                if repository in " ".join(process.info["cmdline"] or [])
            ]
        )
        gate.bytes_per_second = 0

        model = pull_model(reference, workspace)

    assert contents(model) == MODEL | {"vocab.json": random.Random(1).randbytes(2_000_000)}
    assert (gate.asked[small["digest"]], gate.asked[large["digest"]]) == (1, 2)
    assert is_clean(workspace)


@needs_registry
@pytest.mark.parametrize("point", ["layers.tarfile.TarFile.extract", "model.os.replace", "model.write_manifest"])
def test_a_pull_killed_while_unpacking_leaves_nothing_that_is_trusted(
    push: Callable, layout: Layout, workspace: Path, point: str
):
    reference = push(layout.tar(below("models")), layout.tar({"models/vocab.json": b"{}"}))
    reached = workspace.parent / "reached"
    # The second call never ends; of the manifest there is but one.
    before = f"""
import itertools, time
from kfp_osft.stages.preprocess.oci import layers
calls, original = itertools.count({int("manifest" in point)}), {point}
def stop(*arguments, **options):
    if next(calls):
        open({str(reached)!r}, "w").close()
        time.sleep(600)
    return original(*arguments, **options)
{point} = stop
"""
    process = start_pull(reference, workspace, before)
    wait_until(reached.exists)
    process.kill()
    process.wait()

    model = pull_model(reference, workspace)

    assert contents(model) == MODEL | {"vocab.json": b"{}"}
    assert not [path for path in workspace.rglob("*") if path.name in ("layers", "unpacked")]
