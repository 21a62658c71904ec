"""Layers of images and artifacts: what they hide, replace and link to, and members that point outside."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.registry import ARTIFACT_CONFIG, Layout, link
from helpers.errors import error_of
from helpers.files import contents
from helpers.oci_models import MODEL, OTHER, below, is_clean, needs_registry
from kfp_osft.stages.preprocess.oci.model import pull_model


@needs_registry
def test_a_later_layer_replaces_and_hides_what_earlier_ones_hold(push: Callable, layout: Layout, workspace: Path):
    lower = below("models", MODEL | {"gone.txt": b"gone", "kept.txt": b"kept"}) | {
        "models/additional_chat_templates/lower.jinja": b"lower",
        "models/generation_config.json/x": b"a folder",
    }
    upper = {
        # A whiteout hides lower layers, not its own, wherever it stands.
        "models/additional_chat_templates/upper.jinja": b"upper",
        "models/additional_chat_templates/.wh..wh..opq": b"",
        "models/.wh.gone.txt": b"",
        "models/.wh.never-there": b"",
        "models/config.json": OTHER["config.json"],
        "models/generation_config.json": b"a file",
    }

    model = pull_model(push(layout.tar(lower), layout.tar(upper)), workspace)

    assert contents(model) == OTHER | {
        "kept.txt": b"kept",
        "additional_chat_templates/upper.jinja": b"upper",
        "generation_config.json": b"a file",
    }


@needs_registry
def test_links_inside_become_files(push: Callable, layout: Layout, workspace: Path):
    """As in the Hugging Face cache, whose snapshots are links to blobs."""
    files: dict[str, bytes | tarfile.TarInfo] = {
        f"models/blobs/{number}": content for number, content in enumerate(MODEL.values())
    }
    for number, name in enumerate(MODEL):
        files[name] = link(f"models/snapshots/main/{name}", f"../../blobs/{number}")
    files["again"] = link("models/snapshots/main/again.json", "../../blobs/1")
    files["hard"] = link("models/snapshots/main/hard.json", "models/blobs/1", tarfile.LNKTYPE)

    model = pull_model(push(layout.tar(files)), workspace)

    assert contents(model) == MODEL | {"again.json": MODEL["tokenizer.json"], "hard.json": MODEL["tokenizer.json"]}
    assert not [file for file in model.iterdir() if file.is_symlink()]


@needs_registry
@pytest.mark.parametrize(
    "members",
    [
        {"models/../../evil": b"x"},
        {"../evil": b"x"},
        {"/evil": b"x"},
        {"models/.wh...": b""},
        [link("models/evil", "/etc/passwd")],
        [link("models/evil", "../../../outside")],
        [link("models/evil", "../outside", tarfile.LNKTYPE)],
        [link("models/evil", "/etc/passwd", tarfile.LNKTYPE)],
        [link("models/evil", "models/none", tarfile.LNKTYPE)],
        [link("models/evil", "", tarfile.CHRTYPE)],
        [link("models/evil", "", tarfile.FIFOTYPE)],
        # The first link is made while nothing of its way is there; the second leads it outside.
        [link("models/a", "d/../../../outside"), link("models/d", ".")],
        [
            link("models/evil", "d/../../outside"),
            link("models/d", "."),
            link("models/evil/.wh.kept", "", tarfile.REGTYPE),
        ],
    ],
    ids=lambda members: " ".join(getattr(member, "name", member) for member in members),
)
def test_a_member_that_points_outside_is_rejected_by_name(
    push: Callable, layout: Layout, workspace: Path, members: dict | list
):
    files = members if isinstance(members, dict) else {str(number): member for number, member in enumerate(members)}
    names = [member.name for member in members] if isinstance(members, list) else list(members)
    outside = workspace.parent / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    reference = push(layout.tar(below("models")), layout.tar(files))

    message = error_of(pull_model, reference, workspace)

    assert message.startswith(f"training_base_model={reference}: layer 2 of 2: ")
    assert any(name in message for name in names)
    assert not list(workspace.rglob("evil*")) and not Path("/evil").exists()
    assert (outside / "kept").read_text() == "kept" and is_clean(workspace)
    assert not list(workspace.glob("base_models/*/tests*"))


@needs_registry
@pytest.mark.parametrize(
    ("links", "message"),
    [
        # As long as there is no x, x/../.. is models, and all is inside; with x, it is base_models.
        (
            {"models/a/link": "x/../..", "models/a/x": "../.."},
            "layer 2 of 3: models/a/link is rejected: it is a link to x/../.., which may point outside the model",
        ),
        (
            {"models/a/x": "../..", "models/a/link": "x/evil"},
            "layer 2 of 3: models/a/link is rejected: it is a link to x/evil, which goes through the link x",
        ),
        (
            {"models/a/link": "../../.."},
            "layer 2 of 3: models/a/link is rejected: it is a link to ../../.., which may point outside the model",
        ),
        # Inside, and nothing is written through it all the same.
        (
            {"models/a/link": "../more"},
            "layer 3 of 3: models/a/link/evil is rejected: its path goes through the link link",
        ),
    ],
)
def test_a_link_that_others_could_lead_outside_is_rejected_and_nothing_is_written_through_one(
    push: Callable, layout: Layout, workspace: Path, links: dict[str, str], message: str
):
    reference = push(
        layout.tar(below("models/a")),
        layout.tar({str(number): link(name, links[name]) for number, name in enumerate(links)}),
        layout.tar({"models/a/link/evil": b"x"}),
    )

    assert error_of(pull_model, reference, workspace) == f"training_base_model={reference}: {message}"
    assert not list(workspace.rglob("evil"))


@needs_registry
def test_a_path_longer_than_the_kernel_allows_leads_nowhere(push: Callable, layout: Layout, workspace: Path):
    """16 folders with names of 247 characters and a short link to each: there realpath gives up (CVE-2025-4517)."""
    long_name, steps = "d" * 247, "abcdefghijklmnop"
    members, folder = {}, "models"
    for step in steps:
        directory = tarfile.TarInfo(f"{folder}/{long_name}")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        members |= {f"{step} folder": directory, step: link(f"{folder}/{step}", long_name)}
        folder = f"{folder}/{long_name}"
    deep = "models/" + "/".join(steps) + "/" + "l" * 254
    members["deep"] = link(deep, "../" * len(steps))
    outside = "/".join([deep.removeprefix("models/"), *[".."] * 3, "outside"])
    members["escape"] = link("models/escape", outside)
    members["hard"] = link("models/hard", "models/escape", tarfile.LNKTYPE)
    hard = tarfile.TarInfo("models/hard")
    members["write"] = hard
    (workspace / "outside").write_text("kept")
    reference = push(layout.tar(members), layout.tar(below("models")))

    message = error_of(pull_model, reference, workspace)

    assert f"{deep} is rejected: its path goes through the link a" in message
    assert (workspace / "outside").read_text() == "kept" and is_clean(workspace)


@needs_registry
@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\0b"], ids=repr)
def test_a_file_whose_name_points_outside_is_rejected(push: Callable, layout: Layout, workspace: Path, name: str):
    reference = push(layout.file(name, b"x"), config=ARTIFACT_CONFIG)

    assert error_of(pull_model, reference, workspace) == (
        f"training_base_model={reference}: layer 1 of 1: {name} is rejected: it points outside the model"
    )


@needs_registry
def test_a_layer_that_is_neither_a_tar_nor_a_named_file_is_rejected(push: Callable, layout: Layout, workspace: Path):
    reference = push(layout.blob(b"something", "application/x-something"), config=ARTIFACT_CONFIG)

    assert error_of(pull_model, reference, workspace) == (
        f"training_base_model={reference}: layer 1 of 1 is neither a tar nor a named file "
        "(mediaType: application/x-something)"
    )
