"""README.md of an exported model: the Hugging Face Hub's model card."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.plain_text import markdown_text

CARD = "README.md"
_TAGS = ["osft", "orthogonal-subspace-fine-tuning", "continual-learning", "training-hub", "kfp-osft"]
# What is true of the fine-tuned model too.
_CARRIED_KEYS = ("license", "license_name", "license_link", "language")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

_LOADING = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or its id on the Hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
messages = [{"role": "user", "content": "..."}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt, max_new_tokens=256)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
```
"""


@dataclass(frozen=True)
class CardFacts:
    """What a card tells.

    Attributes:
        name: of the model.
        base_model: the one that was trained: a Hub id, or a path, of which the last part alone is told.
        dataset: name of the rows; a Hub id where is_hub_dataset says so.
        checkpoint: which one it is, in words.
        parameters: training parameters by the contract's names.
        metrics: figures by name.
        versions: of the libraries that trained.
        carried: as carried_metadata gives it.
        findings: what the figures say, in sentences.
        lineage: a line for each training that made the model, where there was more than this one.
        first_base: the base model of the first of them; base_model where it is empty.
    """

    name: str
    base_model: str
    dataset: str
    is_hub_dataset: bool
    checkpoint: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    carried: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[str] = ()
    lineage: Sequence[str] = ()
    first_base: str = ""


def hub_id(base_model: str) -> str | None:
    """The Hub id of a base model that is one, or that lies in a Hub cache (models--org--name/snapshots/...)."""
    cached = re.search(r"(?:^|/)models--([^/]+?)--([^/]+)/snapshots/", base_model)
    if cached:
        return f"{cached[1]}/{cached[2]}"
    return base_model if _HUB_ID.fullmatch(base_model) and not Path(base_model).exists() else None


def carried_metadata(base_folder: Path) -> dict[str, Any]:
    """license, license_name, license_link and language of the base model's card, each where it has one."""
    from huggingface_hub import ModelCard

    path = base_folder / CARD
    if not path.is_file():
        return {}
    try:
        data = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    # What the YAML parser raises for a card that is none.
    except Exception as error:
        log(
            f"The base model's {CARD} cannot be read, so the card of this one names neither licence nor language: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        )
        return {}
    return {key: data[key] for key in _CARRIED_KEYS if data.get(key)}


def model_card(facts: CardFacts) -> str:
    """The card: front matter and text. Names are data in it: markup in them stays text."""
    from huggingface_hub import ModelCardData

    base = hub_id(facts.base_model)
    # The Hub knows the first one where the others were never there.
    known_base = base or hub_id(facts.first_base)
    data = ModelCardData(
        base_model=known_base,
        datasets=[facts.dataset] if facts.is_hub_dataset else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=_TAGS,
        base_model_relation="finetune" if known_base else None,
        **facts.carried,
    )
    what = markdown_text(base or Path(facts.base_model).name or "a model")
    on = f" on {markdown_text(facts.dataset)}" if facts.dataset else ""
    parts = [
        f"---\n{data.to_yaml(original_order=None)}\n---\n",
        f"# {markdown_text(facts.name)}\n",
        f"This is {what}, fine-tuned{on} with OSFT (Orthogonal Subspace Fine-Tuning, "
        "[arXiv:2504.07097](https://arxiv.org/abs/2504.07097)) by "
        "[training-hub](https://github.com/Red-Hat-AI-Innovation-Team/training_hub). In the matrices that it limits, "
        "OSFT changes weights only in the directions that matter least to what the base model knew. Of the training it "
        "is "
        f"{markdown_text(facts.checkpoint)}.\n",
        _list("What it learnt and what it kept", facts.findings, "-"),
        _list("Trainings", facts.lineage, "1."),
        f"## Use it\n\n{_LOADING}",
        _table(
            "Metrics",
            ("metric", "value"),
            {name: f"{value:,}" if isinstance(value, int) else f"{value:.6g}" for name, value in facts.metrics.items()},
        ),
        _table("Parameters", ("parameter", "value"), facts.parameters),
        _table("Libraries", ("library", "version"), facts.versions),
        "`osft_run.json` holds all of it; `kfp-osft run --from osft_run.json` runs it again.\n",
    ]
    return "\n".join(part for part in parts if part)


def _list(title: str, lines: Sequence[str], mark: str) -> str:
    return "\n".join([f"## {title}\n", *(f"{mark} {markdown_text(line)}" for line in lines), ""]) if lines else ""


def _table(title: str, head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    lines = [f"| {markdown_text(name)} | {markdown_text(value)} |" for name, value in rows.items()]
    return "\n".join([f"## {title}\n", f"| {head[0]} | {head[1]} |", "|---|---|", *lines, ""])
