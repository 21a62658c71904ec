import dataclasses
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from kfp_osft.stages.export_model.model_card import CardFacts, carried_metadata, hub_id, model_card

_FACTS = CardFacts(
    name="tiny-osft",
    base_model="org/tiny",
    dataset="org/rows",
    is_hub_dataset=True,
    checkpoint="checkpoint samples_64.0 (step 8)",
    parameters={"training_num_epochs": 2, "training_envs": "A=1,B=a|b"},
    metrics={"final_loss": 1.23456789, "tokens": 1234567},
    versions={"torch": "2.9.1"},
    carried={
        "license": "other",
        "license_name": "mine",
        "license_link": "https://example.com/licence",
        "language": ["en", "de"],
    },
    findings=["It learnt.", "It kept `much`."],
)
#: Names that mean something in Markdown, HTML, YAML or the Hub's formulas.
_NASTY = [
    "<script>alert(1)</script>",
    "a|b",
    "*bold* _it_ `code` ~~no~~",
    "[x](javascript:alert(1))",
    "![x](y)",
    "&amp; <!-- -->",
    "two\nlines\n---\nlicense: mit",
    "# head",
    "x ##",
    "$x^2$",
    'yes: "no" \'{',
    "\\",
    "- x",
    "@someone",
    "null",
    "üñí 漢字",
    "&lt;b&gt;",
    "```",
]


def _tokens(card: ModelCard) -> list:
    blocks = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").parse(card.text)
    return [token for block in blocks for token in [block, *(block.children or [])]]


def _text_of(card: ModelCard) -> list[str]:
    """The card's lines of text as a reader sees them: headings, paragraphs and cells."""
    blocks = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").parse(card.text)
    return ["".join(token.content for token in block.children) for block in blocks if block.type == "inline"]


def test_the_hub_reads_the_front_matter():
    card = ModelCard(model_card(_FACTS))

    data = card.data.to_dict()
    assert data.pop("tags")[0] == "osft"
    assert data == {
        "base_model": "org/tiny",
        "base_model_relation": "finetune",
        "datasets": ["org/rows"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "other",
        "license_name": "mine",
        "license_link": "https://example.com/licence",
        "language": ["en", "de"],
    }


def test_of_several_trainings_the_hub_is_told_the_first_base_and_the_text_has_a_line_for_each():
    facts = dataclasses.replace(
        _FACTS, base_model="final_model", first_base="org/tiny", lineage=["org/tiny, trained on a", "then on b"]
    )

    card = ModelCard(model_card(facts))

    assert (card.data.base_model, card.data.to_dict()["base_model_relation"]) == ("org/tiny", "finetune")
    text = _text_of(card)
    assert text[text.index("Trainings") + 1 :][:2] == ["org/tiny, trained on a", "then on b"]


def test_the_text_tells_what_was_trained_on_what_and_the_figures():
    text = _text_of(ModelCard(model_card(_FACTS)))

    assert text[0] == "tiny-osft"
    assert text[1].startswith("This is org/tiny, fine-tuned on org/rows with OSFT")
    assert text[text.index("What it learnt and what it kept") + 1 :][:2] == list(_FACTS.findings)
    for name, value in (
        ("final_loss", "1.23457"),
        ("tokens", "1,234,567"),
        ("training_num_epochs", "2"),
        ("training_envs", "A=1,B=a|b"),
        ("torch", "2.9.1"),
    ):
        assert text[text.index(name) + 1] == value


def test_what_is_not_known_is_left_out():
    card = ModelCard(model_card(CardFacts("x-osft", "", "", False, "checkpoint samples_1.0")))

    assert card.data.to_dict().keys() == {"library_name", "pipeline_tag", "tags"}
    assert not any(word in card.text for word in ("## Metrics", "## Parameters", "## Libraries", "None"))


def test_a_path_is_told_by_its_name_alone_and_is_no_hub_id():
    facts = CardFacts("x-osft", "/home/me/secret-project/model", "rows.jsonl", False, "checkpoint")

    card = ModelCard(model_card(facts))

    assert "base_model" not in card.data.to_dict() and "datasets" not in card.data.to_dict()
    assert "secret-project" not in card.content
    assert _text_of(card)[1].startswith("This is model, fine-tuned on rows.jsonl with OSFT")


@pytest.mark.parametrize("name", _NASTY)
def test_markup_in_a_name_stays_text(name: str):
    plain = ModelCard(model_card(CardFacts("x", "/b", "d", False, "c", {"p": "v"}, versions={"l": "1"})))
    nasty = ModelCard(
        model_card(CardFacts(name, f"/{name.replace('/', '')}", name, False, name, {"p": name}, versions={"l": name}))
    )

    # Nothing but the texts differs: no element more.
    assert [token.type for token in _tokens(nasty) if token.type not in ("text", "text_special")] == [
        token.type for token in _tokens(plain) if token.type not in ("text", "text_special")
    ]
    shown = " ".join(name.split())
    text = _text_of(nasty)
    assert text[0] == shown
    assert text[text.index("p") + 1] == shown and text[text.index("l") + 1] == shown
    assert f"fine-tuned on {shown} with" in text[1] and text[1].endswith(f"Of the training it is {shown}.")
    assert nasty.data.to_dict() == plain.data.to_dict()


@pytest.mark.parametrize("value", ["a: b", "- x", "null", '"', "'", "#", "two\nlines\n---\nmore", "{}", "yes"])
def test_what_yaml_reads_is_quoted_in_the_front_matter(value: str):
    facts = CardFacts("x", "org/tiny", value, True, "c", carried={"license": "other", "license_name": value})

    data = ModelCard(model_card(facts)).data.to_dict()

    assert (data["datasets"], data["license_name"]) == ([value], value)


@pytest.mark.parametrize(
    ("card", "carried"),
    [
        ("---\nlicense: apache-2.0\nbase_model: x/y\n---\ntext", {"license": "apache-2.0"}),
        ("---\nlicense: mit\nlanguage: en\n---\n", {"license": "mit", "language": "en"}),
        (
            "---\nlicense: other\nlicense_name: l\nlicense_link: LICENSE\n---\n",
            {"license": "other", "license_name": "l", "license_link": "LICENSE"},
        ),
        ("---\ntags:\n- x\n---\n", {}),
        ("no front matter", {}),
        ("---\n- a list\n---\n", {}),
        ("---\nlicense: [unclosed\n---\n", {}),
        (None, {}),
    ],
)
def test_licence_and_language_are_those_of_the_base_models_card(tmp_path: Path, card: str | None, carried: dict):
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")

    assert carried_metadata(tmp_path) == carried


@pytest.mark.parametrize(
    ("base_model", "found"),
    [
        ("org/model", "org/model"),
        ("/models/org/model", None),
        ("./model", None),
        ("gpt2", None),
        ("oci://registry/org/model:1", None),
        ("/cache/hub/models--org--my-model/snapshots/0123abc", "org/my-model"),
    ],
)
def test_the_hub_id_of_a_base_model(base_model: str, found: str | None):
    assert hub_id(base_model) == found
