"""The ids and labels are training_hub's own: the same rows go through its data path and through ours."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tiny_model import CHAT_TEMPLATE, write_chat_rows

from kfp_osft.shared.chat_tokens import NO_LOSS, ChatTokenizer, Conversation
from kfp_osft.shared.errors import InputError
from kfp_osft.shared.train_script import hide_broken_torchvision
from kfp_osft.shared.training_data import preprocess_dataset

CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                "<|eot_id|>"]
MISTRAL_TOKENS = ["<unk>", "<s>", "</s>"]

# As Qwen2.5's: a message may have tool calls and no content.
CHATML_WITH_TOOLS = """\
{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}\
{% if message.content is defined %}{{ message.content }}{% endif %}\
{% for call in message.tool_calls or [] %}\
{{ '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}\
{{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}\
{{ '}\n</tool_call>' }}{% endfor %}\
{{ '<|im_end|>\n' }}{% endfor %}"""
# As Qwen3's: reasoning is told after the last question only, and blank lines beside it are stripped.
CHATML_WITH_REASONING = """\
{% set last = namespace(question=-1) %}\
{% for message in messages %}\
{% if message.role == 'user' %}{% set last.question = loop.index0 %}{% endif %}{% endfor %}\
{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}\
{% if message.role == 'assistant' and message.reasoning_content is string and loop.index0 > last.question %}\
{{ '<think>\n' + message.reasoning_content.strip('\n') + '\n</think>\n\n' + message.content.lstrip('\n') }}\
{% else %}{{ message.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"""
LLAMA3 = """\
{{ bos_token }}{% for message in messages %}\
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}\
{{ message['content'] | trim + '<|eot_id|>' }}\
{% endfor %}"""
# As Mistral's: the system's text goes into the first question, and roles must alternate.
MISTRAL = """\
{{ bos_token }}{% set rest = messages[1:] if messages[0].role == 'system' else messages %}\
{% for message in rest %}\
{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('roles must alternate') }}{% endif %}\
{% if message.role == 'user' %}\
{{ '[INST] ' + (messages[0].content + '\n\n' if loop.first and messages[0].role == 'system' else '') }}\
{{ message.content + ' [/INST]' }}\
{% else %}{{ ' ' + message.content | trim + eos_token }}{% endif %}{% endfor %}"""

TRAINING_TEXT = ["What is the capital of Austria? Vienna is the capital of Austria, and the seat of its "
                 "government.",
                 "system user assistant You are a helpful assistant. I travel to Peru: Lima!"] * 20


class Family(NamedTuple):
    """A kind of tokenizer, its end-of-sequence token and chat template; `free`: any roles in any order."""

    tokenizer: Callable[[list[str]], Any]
    special_tokens: list[str]
    bos: str | None
    eos: str
    template: str
    free: bool = True


def byte_level_bpe(special_tokens: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(TRAINING_TEXT, trainers.BpeTrainer(
        vocab_size=400, special_tokens=special_tokens, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return bpe


def sentencepiece_unigram(special_tokens: list[str]) -> Any:
    """As converted sentencepiece models are: NFKC, blanks as U+2581, one more in front, <s> by itself."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.NFKC()
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    unigram.train_from_iterator(TRAINING_TEXT, trainers.UnigramTrainer(
        vocab_size=200, special_tokens=special_tokens, unk_token="<unk>",
        initial_alphabet=[chr(code) for code in range(33, 127)], show_progress=False))
    unigram.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return unigram


def sentencepiece_bpe(special_tokens: list[str]) -> Any:
    """As Llama 2's: the normalizer makes U+2581 of blanks, one more in front; the unknown becomes bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    bpe.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                                     decoders.Fuse()])
    bpe.train_from_iterator(TRAINING_TEXT, trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*special_tokens, *[f"<0x{byte:02X}>" for byte in range(256)]],
        initial_alphabet=[chr(code) for code in range(33, 127)], show_progress=False))
    return bpe


FAMILIES = {
    "chatml": Family(byte_level_bpe, CHATML_TOKENS, None, "<|im_end|>", CHATML_WITH_TOOLS),
    "chatml-reasoning": Family(byte_level_bpe, CHATML_TOKENS, None, "<|im_end|>", CHATML_WITH_REASONING),
    "llama3": Family(byte_level_bpe, LLAMA_TOKENS, "<|begin_of_text|>", "<|eot_id|>", LLAMA3),
    # A tokenizer whose eos is not its template's end of turn, as base models have it.
    "llama3-other-eos": Family(byte_level_bpe, LLAMA_TOKENS, "<|begin_of_text|>", "<|end_of_text|>", LLAMA3),
    "mistral": Family(byte_level_bpe, MISTRAL_TOKENS, "<s>", "</s>", MISTRAL, free=False),
    "llama2": Family(sentencepiece_bpe, MISTRAL_TOKENS, "<s>", "</s>", MISTRAL, free=False),
    "sentencepiece": Family(sentencepiece_unigram, MISTRAL_TOKENS, "<s>", "</s>", MISTRAL, free=False),
    "sentencepiece-chatml": Family(sentencepiece_unigram, MISTRAL_TOKENS, "<s>", "</s>",
                                   CHAT_TEMPLATE.replace("<|im_end|>", "</s>")),
}


def make_tokenizer(family: Family, template: str | None = None) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=family.tokenizer(family.special_tokens), bos_token=family.bos, eos_token=family.eos,
        unk_token="<unk>" if "<unk>" in family.special_tokens else None)
    tokenizer.chat_template = template or family.template
    return tokenizer


def make_model_folder(folder: Path, tokenizer: Any) -> Path:
    """A folder that is a model to all who do not load its weights."""
    from transformers import LlamaConfig

    tokenizer.save_pretrained(folder)
    LlamaConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                num_attention_heads=1).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    return folder


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
            model_name_or_path=str(model), data_path=str(rows), output_dir=str(tmp_path / "theirs"),
            max_seq_len=max_seq_len, num_cpu_procs=None, unmask_messages=unmask_messages,
            use_processed_dataset=False)
        # It shows samples.
        capsys.readouterr()
        return Path(data)

    return process


@pytest.fixture
def ours(tmp_path: Path) -> Callable:
    def process(model: Path, rows: Path, unmask_messages: bool = False, max_seq_len: int = 8192) -> Path:
        return Path(preprocess_dataset(str(rows), str(tmp_path / "pvc"), {
            "training_base_model": str(model), "training_unmask_messages": unmask_messages,
            "training_max_seq_len": max_seq_len}).data_path)

    return process


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def samples_of(data: Path) -> list[tuple]:
    samples = [json.loads(line) for line in data.read_text().splitlines()]
    return [(sample["labels"], sample["input_ids"], sample["len"]) for sample in samples]


def learnt_text(tokenizer: Any, labels: list[int]) -> list[str]:
    """The texts of the runs of tokens with loss."""
    runs: list[list[int]] = [[]]
    for label in labels:
        if label != NO_LOSS:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


def said(role: str, content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


QUESTION = "What is the capital of Austria?"
ANSWER = "Vienna is the capital of Austria, and the seat of its government."
LIKE_SPECIAL_TOKENS = "".join([*CHATML_TOKENS, *LLAMA_TOKENS, *MISTRAL_TOKENS,
                               "[INST] [/INST] <think></think>"])

ROWS = {
    "one turn": [said("user", QUESTION), said("assistant", ANSWER)],
    "many turns": [said("user", QUESTION), said("assistant", ANSWER)] * 3,
    "system": [said("system", "You are a helpful assistant."), said("user", QUESTION),
               said("assistant", ANSWER)],
    "ends with a question": [said("user", QUESTION), said("assistant", ANSWER), said("user", QUESTION)],
    "the same text in all roles": [said(role, ANSWER) for role in ("system", "user", "assistant")],
    "unicode": [said("user", "Größe? 漢字かな שלום a\u0301 ﬁ \u00a0 \u2581 \u200d"),
                said("assistant", "\U0001f600 \U0001f468\u200d\U0001f469 naïve ½ ①")],
    "blanks": [said("user", "  \n\t" + QUESTION + "\r\n "), said("assistant", "\n\n  " + ANSWER + "\t\n")],
    "zero byte": [said("user", f"a\0b {QUESTION}"), said("assistant", f"{ANSWER}\0")],
    "jinja": [said("user", "{{ messages }} {% if x %} {# #}" + QUESTION),
              said("assistant", ANSWER + "{{ eos_token }}")],
    "special tokens in the question": [said("user", QUESTION + LIKE_SPECIAL_TOKENS),
                                       said("assistant", ANSWER)],
    "special tokens in the answer": [said("user", QUESTION),
                                     said("assistant", ANSWER + LIKE_SPECIAL_TOKENS + ANSWER)],
    "special tokens in the second question": [said("user", QUESTION), said("assistant", ANSWER),
                                              said("user", QUESTION + LIKE_SPECIAL_TOKENS),
                                              said("assistant", ANSWER)],
    "special tokens in the second answer": [said("user", QUESTION), said("assistant", ANSWER),
                                            said("user", QUESTION),
                                            said("assistant", ANSWER + LIKE_SPECIAL_TOKENS + ANSWER)],
    "an end of turn in the answer": [said("user", QUESTION),
                                     said("assistant", f"{ANSWER}<|im_end|>\n<|im_start|>user\n"),
                                     said("user", QUESTION), said("assistant", ANSWER)],
    "empty answer": [said("user", QUESTION), said("assistant", ""), said("user", ""),
                     said("assistant", ANSWER)],
    "blank answer": [said("user", QUESTION), said("assistant", "  \n"), said("user", QUESTION),
                     said("assistant", ANSWER)],
    "further fields": [said("user", QUESTION, name="me"), said("assistant", ANSWER, name="you", weight=1)],
}
REASONING_ROWS = {
    "reasoning": [said("user", QUESTION), said("assistant", ANSWER, reasoning_content="Hm.\nAustria...\n")],
    "earlier reasoning": [said("user", QUESTION), said("assistant", ANSWER, reasoning_content="Hm."),
                          said("user", QUESTION), said("assistant", ANSWER)],
    "reasoning in all turns": [said("user", QUESTION), said("assistant", ANSWER, reasoning_content="Hm."),
                               said("user", QUESTION), said("assistant", ANSWER, reasoning_content="Well.")],
    "reasoning in some turns": [said("user", QUESTION), said("assistant", ANSWER, reasoning_content="Hm."),
                                said("user", QUESTION), said("assistant", ANSWER),
                                said("user", QUESTION), said("assistant", ANSWER, reasoning_content="Well.")],
    "empty reasoning": [said("user", QUESTION), said("assistant", ANSWER, reasoning_content="")],
    "null reasoning": [said("user", QUESTION), said("assistant", ANSWER, reasoning_content=None)],
    "thinking": [said("user", QUESTION), said("assistant", ANSWER, thinking="Hm.")],
    "a question with reasoning": [said("user", QUESTION, reasoning_content="Hm."), said("assistant", ANSWER)],
}
FREE_ROWS = {
    "tool": [said("user", QUESTION), said("assistant", ANSWER), said("tool", '{"city": "Vienna"}'),
             said("assistant", ANSWER)],
    "two answers": [said("user", QUESTION), said("assistant", ANSWER), said("assistant", ANSWER)],
    "answer first": [said("assistant", ANSWER), said("user", QUESTION)],
    "late system": [said("user", QUESTION), said("system", "Be brief."), said("assistant", ANSWER)],
    "pretraining": [said("pretraining", f"<|user|>\n{QUESTION}\n<|assistant|>\n{ANSWER}\n<|endoftext|>")],
    "pretraining in Granite's form": [
        said("pretraining", f"<|start_of_role|>user<|end_of_role|>\n{QUESTION}<|end_of_text|>"
                            f"<|start_of_role|>assistant<|end_of_role|>\n{ANSWER}<|end_of_text|>")],
    "pretraining after system": [said("system", "Be brief."),
                                 said("pretraining", f"<|assistant|>\n{ANSWER}")],
}


def call(arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "capital", "arguments": arguments}}


TOOL_ROWS = {
    "tool call without content": [said("user", QUESTION),
                                  said("assistant", None, tool_calls=[call('{"of": "Austria"}')]),
                                  said("tool", "Vienna"), said("assistant", ANSWER)],
    "tool call with content": [said("user", QUESTION),
                               said("assistant", "I look.", tool_calls=[call({"of": "Austria"})]),
                               said("tool", "Vienna"), said("assistant", ANSWER)],
    "two tool calls": [said("user", QUESTION),
                       said("assistant", None, reasoning_content="Hm.",
                            tool_calls=[call({"of": "Austria"}), call({"near": ["Peru"]})]),
                       said("tool", "Vienna"), said("tool", "Lima"), said("assistant", ANSWER)],
}


def rows_for(name: str) -> dict[str, list]:
    rows = ROWS | REASONING_ROWS
    if FAMILIES[name].free:
        rows = rows | FREE_ROWS
    return rows | TOOL_ROWS if name == "chatml" else rows


@pytest.mark.parametrize("unmask", ["some rows", "the parameter", "nobody"])
@pytest.mark.parametrize("name", FAMILIES)
def test_ids_and_labels_are_those_of_training_hub(model, theirs, ours, tmp_path: Path, name: str,
                                                  unmask: str):
    rows = []
    for kind, messages in rows_for(name).items():
        rows.append({"messages": messages, "kind": kind})
        if unmask == "some rows":
            rows[-1]["unmask"] = False
            rows.append({"messages": messages, "kind": kind, "unmask": True})
    path = write_rows(tmp_path / "rows.jsonl", rows)

    expected = samples_of(theirs(model(name), path, unmask == "the parameter"))
    made = samples_of(ours(model(name), path, unmask == "the parameter"))

    assert [row["kind"] for row, one, other in zip(rows, made, expected, strict=True) if one != other] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", FAMILIES)
def test_ids_and_labels_of_random_rows_are_those_of_training_hub(model, theirs, ours, tmp_path: Path,
                                                                 name: str, seed: int):
    generator = random.Random(seed)
    pieces = [*CHATML_TOKENS, *LLAMA_TOKENS, *MISTRAL_TOKENS, "[INST]", "[/INST]", "<think>", "</think>",
              "{{ x }}",
              QUESTION, "Vienna", "", " ", "\n", "\r\n", "  ahead", "behind \n", "\U0001f600", "Größe", "漢字",
              "שלום", "\0", "a\u0301", "ﬁ", "\u2581a", "1234567890", "\u00a0"]

    def text() -> str:
        chosen = generator.choices(pieces, k=generator.randint(0, 8))
        return "".join(piece + generator.choice(["", " "]) for piece in chosen)

    rows = []
    for _ in range(150):
        messages = [said("system", text())] if generator.random() < 0.4 else []
        for _ in range(generator.randint(1, 4)):
            # With one word at least there is something to learn from in each family.
            answer = said("assistant", text() + "Vienna")
            if generator.random() < 0.3:
                answer[generator.choice(["reasoning_content", "reasoning_content", "thinking"])] = text()
            messages += [said("user", text()), answer]
            if name == "chatml" and generator.random() < 0.3:
                answer["tool_calls"] = [call(generator.choice([json.dumps({"of": text()}), {"of": text()}]))]
                messages.append(said("tool", text()))
        rows.append({"messages": messages, "unmask": generator.random() < 0.3})
    path = write_rows(tmp_path / "rows.jsonl", rows)

    expected = samples_of(theirs(model(name), path, max_seq_len=400))
    made = samples_of(ours(model(name), path, max_seq_len=400))

    assert len(expected) > 75
    assert made == expected


@pytest.mark.parametrize("form", ["json", "parquet", "string"])
def test_rows_in_another_format_become_the_same_as_with_training_hub(model, theirs, ours, tmp_path: Path,
                                                                     form: str):
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

    conversations = [[said("user", "a"), said("assistant", "a" * count)] for count in range(1, 60)]
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": messages} for messages in conversations])
    tokenizer = ChatTokenizer(AutoTokenizer.from_pretrained(model("chatml")))
    lengths = {len(sample.input_ids) for sample in tokenizer.samples(
        [Conversation("row", messages, frozenset({"assistant"})) for messages in conversations])}
    assert {19, 20, 39, 40} <= lengths

    expected = samples_of(theirs(model("chatml"), path, max_seq_len=40))

    assert {length for _, _, length in expected} == set(range(20, 40))
    assert samples_of(ours(model("chatml"), path, max_seq_len=40)) == expected


def test_mini_trainer_reads_from_our_file_what_it_reads_from_training_hubs(model, theirs, ours,
                                                                           tmp_path: Path):
    rows = write_chat_rows(tmp_path / "rows.jsonl", rows=8)
    from mini_trainer.sampler import JsonlDataset

    read = [JsonlDataset(path=str(process(model("chatml"), rows))) for process in (ours, theirs)]

    assert len(read[0]) == len(read[1]) == 8
    for one, other in zip(*[[dataset[index] for index in range(8)] for dataset in read], strict=True):
        assert one.keys() == other.keys() and int(other["num_loss_counted_tokens"]) > 0
        assert all(one[field] == other[field] if field not in ("input_ids", "labels")
                   else one[field].tolist() == other[field].tolist() for field in one)


# What is learnt, in words


@pytest.mark.parametrize(
    ("name", "kind", "roles", "learnt"),
    [
        ("chatml", "system", "assistant", [f"{ANSWER}<|im_end|>"]),
        ("chatml", "many turns", "assistant", [f"{ANSWER}<|im_end|>"] * 3),
        ("chatml", "system", "user assistant", [QUESTION, f"{ANSWER}<|im_end|>"]),
        ("chatml", "ends with a question", "user assistant", [QUESTION, f"{ANSWER}<|im_end|>", QUESTION]),
        ("chatml", "empty answer", "assistant", ["<|im_end|>", f"{ANSWER}<|im_end|>"]),
        ("llama3", "system", "assistant", [f"{ANSWER}<|eot_id|>"]),
        ("llama3-other-eos", "system", "assistant", [ANSWER]),
        ("mistral", "many turns", "assistant", [f"{ANSWER}</s>"] * 3),
        ("chatml-reasoning", "reasoning", "assistant",
         [f"Hm.\nAustria...\n\n</think>\n\n{ANSWER}<|im_end|>"]),
    ],
)
def test_the_answer_and_its_end_of_turn_are_learnt(model, name: str, kind: str, roles: str,
                                                   learnt: list[str]):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model(name))
    messages = (ROWS | REASONING_ROWS)[kind]

    sample, = ChatTokenizer(tokenizer).samples([Conversation("row 1", messages, frozenset(roles.split()))])

    assert learnt_text(tokenizer, sample.labels) == learnt
    assert [label for label in sample.labels if label != NO_LOSS] == [
        token for token, label in zip(sample.input_ids, sample.labels, strict=True) if label != NO_LOSS]
    assert sample.num_loss_counted_tokens == sum(label != NO_LOSS for label in sample.labels)


def test_the_first_token_counts_for_no_loss():
    from kfp_osft.shared.chat_tokens import Sample

    assert Sample([5, 6, 7], [5, NO_LOSS, 7]).num_loss_counted_tokens == 1


def test_many_conversations_at_once_become_what_each_becomes_alone(model):
    from transformers import AutoTokenizer

    tokenizer = ChatTokenizer(AutoTokenizer.from_pretrained(model("sentencepiece")))
    conversations = [Conversation(kind, messages, frozenset({"assistant"}))
                     for kind, messages in ROWS.items()]

    assert tokenizer.samples(conversations) == [
        sample for conversation in conversations for sample in tokenizer.samples([conversation])]


def test_no_mark_is_left_in_a_sample(model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model("chatml"))
    vocabulary = len(tokenizer)
    chat = ChatTokenizer(tokenizer)
    sample, = chat.samples([Conversation("row 1", ROWS["system"], frozenset({"assistant"}))])

    assert max(sample.input_ids) < vocabulary < len(tokenizer)
    assert chat.decode(sample.input_ids) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>\n")


# Templates and rows that do not go together

CONTENT_ONLY = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (MISTRAL, [said("user", "a"), said("user", "b"), said("assistant", "c")],
         "the model's chat template does not take this conversation: roles must alternate"),
        (CONTENT_ONLY.replace("message.content", "message.content + message.name"), ROWS["one turn"],
         "the model's chat template does not take this conversation: "),
        (CONTENT_ONLY.replace("message.content", "'<' + message.content"),
         [said("assistant", None, tool_calls=[call("")])],
         "the model's chat template does not take this conversation: "),
        (CONTENT_ONLY.replace("message.content", "message.content[:20]"), ROWS["one turn"],
         "the model's chat template cuts a message short"),
        (CONTENT_ONLY.replace("message.content", "message.content[30:]"), ROWS["one turn"],
         "the model's chat template cuts off the beginning of a message"),
        (CONTENT_ONLY.replace("message.content", "message.content if loop.last else message.content[:20]"),
         ROWS["many turns"], "the model's chat template puts a message into another"),
        (CHAT_TEMPLATE, [said("user", "\ud83d"), said("assistant", ANSWER)], "is no text: "),
        (CHATML_WITH_TOOLS, [said("assistant", ANSWER, tool_calls=[call("\udc00")])], "is no text: "),
        (CHATML_WITH_TOOLS, [said("assistant", ANSWER, tool_calls=5)],
         "the model's chat template does not take this conversation: "),
    ],
    ids=["refused", "field", "null", "cut", "beheaded", "nested", "surrogate", "surrogate in a call",
         "calls"],
)
def test_a_conversation_that_the_template_does_not_render_whole_is_told(template: str, messages: list,
                                                                        message: str):
    tokenizer = ChatTokenizer(make_tokenizer(FAMILIES["chatml"], template))

    with pytest.raises(InputError) as error:
        tokenizer.samples([Conversation("rows.jsonl, row 2", messages, frozenset({"assistant"}))])

    assert str(error.value).startswith(f"rows.jsonl, row 2: {message}")


def test_a_tokenizer_without_a_chat_template_is_told(model, tmp_path: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model("chatml"))
    tokenizer.chat_template = None

    with pytest.raises(InputError) as error:
        ChatTokenizer(tokenizer)

    assert str(error.value) == (
        f"training_base_model={model('chatml')}: its tokenizer has no chat template; give an "
        f"instruction-tuned "
        "model, or add chat_template.jinja to the model folder")
