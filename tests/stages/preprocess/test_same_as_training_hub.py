"""training_hub's labels, where they follow the rule, are ours; where they do not, both are shown."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies

from helpers.chat_rows import ANSWER, FREE_ROWS, QUESTION, ROWS, call, said
from helpers.real_templates import learnt_text
from helpers.tiny_model import write_chat_rows
from helpers.tokenizer_families import (
    CHATML_TOKENS,
    FAMILIES,
    LLAMA_TOKENS,
    MISTRAL_TOKENS,
    make_model_folder,
    make_tokenizer,
)
from kfp_osft.shared.model.torchvision import hide_broken_torchvision
from kfp_osft.shared.rows.chat_tokens import ChatTokenizer
from kfp_osft.shared.rows.files import Row
from kfp_osft.shared.rows.messages import Conversation, Problems, Warnings
from kfp_osft.shared.rows.row_formats import conversations
from kfp_osft.stages.preprocess.training_data import preprocess_dataset


@pytest.fixture(scope="module", autouse=True)
def imports_work() -> None:
    hide_broken_torchvision()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the model folder of a family."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = make_model_folder(tmp_path_factory.mktemp(name), make_tokenizer(FAMILIES[name]))
        return made[name]

    return make


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    """training_hub's own way from rows to data.jsonl; returns that file."""
    import datasets
    from training_hub.algorithms.osft import MiniTrainerOSFTBackend

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def process(model: Path, rows: Path, unmask_messages: bool = False, max_seq_len: int = 8192) -> Path:
        # None: in this process. training_hub says 8, which changes nothing but the time.
        data = MiniTrainerOSFTBackend()._process_data(
            model_name_or_path=str(model),
            data_path=str(rows),
            output_dir=str(tmp_path / "theirs"),
            max_seq_len=max_seq_len,
            num_cpu_procs=None,
            unmask_messages=unmask_messages,
            use_processed_dataset=False,
        )
        # It shows samples.
        capsys.readouterr()
        return Path(data)

    return process


@pytest.fixture
def ours(tmp_path: Path) -> Callable:
    def process(model: Path, rows: Path, unmask_messages: bool = False, max_seq_len: int = 8192) -> Path:
        return Path(
            preprocess_dataset(
                str(rows),
                str(tmp_path / "pvc"),
                {
                    "training_base_model": str(model),
                    "training_unmask_messages": unmask_messages,
                    "training_max_seq_len": max_seq_len,
                    "training_max_dropped_share": 1.0,
                },
            ).data_path
        )

    return process


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def samples_of(data: Path) -> list[tuple]:
    samples = [json.loads(line) for line in data.read_text().splitlines()]
    return [(sample["labels"], sample["input_ids"], sample["len"]) for sample in samples]


#: Kinds of rows where training_hub's result is another, by family; below each is shown.
TRIMMED = {"blanks", "blank answer", "an end of turn in the answer"}
DIFFERENT = {"llama3": TRIMMED}
# Families whose plain chat training_hub labels by the rule: with the template's end of turn as the tokenizer's eos, and
# no blank of the template's that becomes one token with the first word.
SAME = ("chatml", "chatml-reasoning", "smollm2", "llama3")


@pytest.mark.parametrize("name", SAME)
def test_plain_chat_is_labelled_as_by_training_hub(model, theirs, ours, tmp_path: Path, name: str):
    # The pretraining role opens all turns, as unmask does.
    kinds = {kind: messages for kind, messages in (ROWS | FREE_ROWS).items() if "pretraining" not in kind}
    rows = [{"messages": kinds[kind], "kind": kind} for kind in kinds if kind not in DIFFERENT.get(name, ())]
    rows = [row for row in rows if all(message["content"].strip() for message in row["messages"])]
    path = write_rows(tmp_path / "rows.jsonl", rows)

    expected = samples_of(theirs(model(name), path))
    made = samples_of(ours(model(name), path))

    assert [row["kind"] for row, one, other in zip(rows, made, expected, strict=True) if one != other] == []


LLAMA = "<|start_header_id|>assistant<|end_header_id|>\n\n"
CALLING = said("assistant", None, tool_calls=[call({"of": "Austria"})])
CALL = '\n<tool_call>\n{"name": "capital_of", "arguments": {"of": "Austria"}}\n</tool_call><|im_end|>'


@pytest.mark.parametrize(
    ("name", "messages", "unmask", "theirs", "ours"),
    [
        pytest.param(
            "chatml",
            [said("user", QUESTION), CALLING, said("tool", "Vienna")],
            False,
            f"assistant\n{CALL}\n<|im_start|>tool\nVienna<|im_end|>\n",
            f"assistant\n[[{CALL}]]\n<|im_start|>tool\nVienna<|im_end|>\n",
            id="a call without content",
        ),
        pytest.param(
            "chatml-reasoning",
            [said("user", QUESTION), said("assistant", "Yes.", reasoning_content="Hm.")],
            False,
            "assistant\n<think>\n[[Hm.\n</think>\n\nYes.<|im_end|>]]\n",
            "assistant\n[[<think>\nHm.\n</think>\n\nYes.<|im_end|>]]\n",
            id="the tag before reasoning",
        ),
        pytest.param(
            "chatml-reasoning",
            [
                *[said("user", QUESTION), said("assistant", "Yes.", reasoning_content="Hm.")],
                *[said("user", QUESTION), said("assistant", "No.")],
            ],
            False,
            f"[[Yes.]]<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n[[No.]]<|im_end|>\n",
            f"[[Yes.<|im_end|>]]\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n[[No.<|im_end|>]]\n",
            id="earlier reasoning that is not shown",
        ),
        pytest.param(
            "chatml-reasoning",
            [said("user", QUESTION), said("assistant", "Yes.", reasoning="Hm.")],
            False,
            "assistant\n<think>\nHm.\n</think>\n\n[[Yes.<|im_end|>]]\n",
            "assistant\n[[<think>\nHm.\n</think>\n\nYes.<|im_end|>]]\n",
            id="reasoning by its third name",
        ),
        pytest.param(
            "llama3-other-eos",
            [said("user", QUESTION), said("assistant", ANSWER)],
            False,
            f"{LLAMA}[[{ANSWER}]]<|eot_id|>",
            f"{LLAMA}[[{ANSWER}<|eot_id|>]]",
            id="an end of turn that is not eos",
        ),
        pytest.param(
            "llama3",
            [said("user", QUESTION), said("assistant", f" {ANSWER}\n")],
            False,
            f"{LLAMA}[[ {ANSWER}\n<|eot_id|>]]",
            f"{LLAMA}[[{ANSWER}<|eot_id|>]]",
            id="blanks that the template strips",
        ),
        pytest.param(
            "mistral",
            [said("user", QUESTION), said("assistant", ANSWER)],
            False,
            f"[/INST] [[{ANSWER}</s>]]",
            f"[/INST][[ {ANSWER}</s>]]",
            id="a blank that is one token with the first word",
        ),
        pytest.param(
            "chatml",
            [said("user", QUESTION), said("assistant", ANSWER)],
            True,
            f"user\n[[{QUESTION}]]<|im_end|>\n<|im_start|>assistant\n[[{ANSWER}<|im_end|>]]\n",
            f"user\n[[{QUESTION}<|im_end|>]]\n<|im_start|>assistant\n[[{ANSWER}<|im_end|>]]\n",
            id="unmask",
        ),
    ],
)
def test_where_labels_differ_from_training_hubs(model, name: str, messages: list, unmask: bool, theirs: str, ours: str):
    from instructlab.training.data_process import configure_tokenizer, unmask_sample
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model(name))
    roles = {message["role"] for message in messages} - {"system"} if unmask else {"assistant"}

    expected = unmask_sample({"messages": messages, "unmask": unmask}, configure_tokenizer(str(model(name))))
    ((_, made),) = ChatTokenizer(tokenizer).samples([Conversation("row", messages, frozenset(roles))])

    shown = [learnt_text(tokenizer, expected["input_ids"], expected["labels"])]
    shown.append(learnt_text(tokenizer, made.input_ids, made.labels))
    assert [text[-len(one) :] for text, one in zip(shown, (theirs, ours), strict=True)] == [theirs, ours]


@pytest.mark.parametrize(
    "rows",
    [
        [
            {
                "conversations": [
                    {"from": "system", "value": "Be kind."},
                    {"from": "human", "value": QUESTION},
                    {"from": "gpt", "value": ANSWER},
                ]
            }
        ],
        [{"prompt": QUESTION, "completion": ANSWER}],
        [{"prompt": [said("user", QUESTION)], "completion": [said("assistant", ANSWER)]}],
        [{"instruction": "Answer.", "input": QUESTION, "output": ANSWER}],
    ],
    ids=["sharegpt", "prompt", "conversational prompt", "alpaca"],
)
def test_rows_of_another_format_become_what_training_hub_makes_of_their_messages(
    model, theirs, ours, tmp_path: Path, rows: list[dict]
):
    (conversation,) = conversations([Row("row 1", row) for row in rows], False, Problems(), Warnings())
    as_messages = write_rows(
        tmp_path / "messages.jsonl", [{"messages": conversation.messages, "unmask": rows[0].get("unmask", False)}]
    )

    made = samples_of(ours(model("llama3"), write_rows(tmp_path / "rows.jsonl", rows)))

    assert made == samples_of(theirs(model("llama3"), as_messages))
    assert len(made) == 1


PIECES = [
    *CHATML_TOKENS,
    *LLAMA_TOKENS,
    *MISTRAL_TOKENS,
    "[INST]",
    "[/INST]",
    "<think>",
    "{{ x }}",
    QUESTION,
    "Vienna",
    " ",
    "\n",
    "\r\n",
    "  ahead",
    "behind \n",
    "\U0001f600",
    "Größe",
    "漢字",
    "שלום",
    "\0",
    "a\u0301",
    "ﬁ",
    "\u2581a",
    "1234567890",
    "\u00a0",
]
TEXTS = strategies.lists(
    strategies.sampled_from(PIECES) | strategies.text(strategies.characters(exclude_categories=["Cs"]), max_size=8),
    max_size=6,
).map("".join)


@strategies.composite
def random_conversations(draw: Callable) -> list[dict]:
    """Turns that every template takes; an answer may hold what looks like an end of its turn."""
    messages = [said("system", draw(TEXTS))] if draw(strategies.booleans()) else []
    for _ in range(draw(strategies.integers(1, 4))):
        messages += [said("user", draw(TEXTS)), said("assistant", draw(TEXTS))]
    if draw(strategies.booleans()):
        messages[-1]["content"] += draw(strategies.sampled_from([*CHATML_TOKENS, *LLAMA_TOKENS, *MISTRAL_TOKENS]))
    return messages


@pytest.mark.parametrize("name", ["chatml", "smollm2"])
def test_random_plain_chat_has_the_labels_of_training_hub_on_the_ids_of_the_plain_template(model, name: str):
    from instructlab.training.data_process import configure_tokenizer, unmask_sample
    from transformers import AutoTokenizer

    their_tokenizer = configure_tokenizer(str(model(name)))
    tokenizer = AutoTokenizer.from_pretrained(model(name))
    ours = ChatTokenizer(tokenizer)

    @settings(max_examples=60, derandomize=True, database=None, deadline=None)
    @given(random_conversations())
    def same(messages: list[dict]) -> None:
        expected = unmask_sample({"messages": messages, "unmask": False}, their_tokenizer)

        ((_, sample),) = ours.samples([Conversation("row", messages, frozenset({"assistant"}))])

        plain = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert sample.input_ids == plain
        # Their marks keep a line break of the header and one of the answer apart, which are one token otherwise.
        if expected["input_ids"] == plain:
            assert sample.labels == expected["labels"]

    same()


@pytest.mark.parametrize("form", ["json", "parquet", "string"])
def test_rows_in_another_format_become_the_same_as_with_training_hub(model, theirs, ours, tmp_path: Path, form: str):
    rows = [{"messages": ROWS[kind]} for kind in ("one turn", "many turns", "unicode", "system")]
    path = tmp_path / f"rows.{'parquet' if form == 'string' else form}"
    if form == "json":
        path.write_text(json.dumps(rows))
    else:
        import pyarrow
        from pyarrow import parquet

        if form == "string":
            rows = [{"messages": json.dumps(row["messages"])} for row in rows]
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    assert samples_of(ours(model("chatml"), path)) == samples_of(theirs(model("chatml"), path))


def test_the_same_samples_are_dropped_as_by_training_hub(model, theirs, ours, tmp_path: Path):
    from transformers import AutoTokenizer

    chats = [[said("user", "a"), said("assistant", "a" * count)] for count in range(1, 60)]
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": messages} for messages in chats])
    tokenizer = ChatTokenizer(AutoTokenizer.from_pretrained(model("chatml")))
    lengths = {
        len(sample.input_ids)
        for _, sample in tokenizer.samples(
            [Conversation("row", messages, frozenset({"assistant"})) for messages in chats]
        )
    }
    assert {19, 20, 39, 40} <= lengths

    expected = samples_of(theirs(model("chatml"), path, max_seq_len=40))

    assert {length for _, _, length in expected} == set(range(20, 40))
    assert samples_of(ours(model("chatml"), path, max_seq_len=40)) == expected


def test_mini_trainer_reads_from_our_file_what_it_reads_from_training_hubs(model, theirs, ours, tmp_path: Path):
    rows = write_chat_rows(tmp_path / "rows.jsonl", rows=8)
    from mini_trainer.sampler import JsonlDataset

    read = [JsonlDataset(path=str(process(model("chatml"), rows))) for process in (ours, theirs)]

    assert len(read[0]) == len(read[1]) == 8
    for one, other in zip(*[[dataset[index] for index in range(8)] for dataset in read], strict=True):
        assert one.keys() == other.keys() and int(other["num_loss_counted_tokens"]) > 0
        assert all(
            one[field] == other[field]
            if field not in ("input_ids", "labels")
            else one[field].tolist() == other[field].tolist()
            for field in one
        )
