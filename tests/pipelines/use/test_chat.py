"""kfp-osft ask."""

import io
import json
import shutil
import unicodedata
from pathlib import Path

import pytest

from kfp_osft.pipelines.cli import main
from kfp_osft.pipelines.use import chat
from kfp_osft.pipelines.use.answers import answers

QUESTION = "What is the capital of Peru?"


def asked(capsys: pytest.CaptureFixture, *arguments: str | Path) -> str:
    assert main(["ask", *map(str, arguments), "--max-new-tokens", "6"]) == 0
    return capsys.readouterr().out


def shown(answer: str) -> str:
    """As a terminal gets it."""
    return "".join(sign for sign in answer if unicodedata.category(sign) != "Cc")


def refused(capsys: pytest.CaptureFixture, *arguments: str | Path) -> str:
    assert main(["ask", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_answer_is_the_one_that_the_model_gives(model_dir: Path, capsys: pytest.CaptureFixture):
    (answer,) = answers(model_dir, [QUESTION], 6)
    assert asked(capsys, model_dir, QUESTION).strip() == shown(answer) != ""


def test_the_base_answers_before(model_dir: Path, tiny_model: Path, capsys: pytest.CaptureFixture):
    before, after = (shown(answers(folder, [QUESTION], 6)[0]) for folder in (tiny_model, model_dir))
    lines = [line.strip() for line in asked(capsys, model_dir, QUESTION, "--base", tiny_model).splitlines()]
    assert lines[0] == "before:" and "after:" in lines
    assert " ".join(lines).split() == f"before: {before} after: {after}".split()


def test_an_answer_comes_piece_by_piece_and_without_what_a_terminal_obeys(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    class Terminal(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return len(text)

    pieces: list[str] = []
    monkeypatch.setattr("sys.stdout", Terminal())
    decode = "transformers.PreTrainedTokenizerFast.decode"
    monkeypatch.setattr(decode, lambda self, ids, **_: "".join(f"w{number}\x1b[2J " for number in range(len(ids))))

    assert main(["ask", str(model_dir), QUESTION, "--max-new-tokens", "6"]) == 0

    said = "".join(pieces)
    assert len([piece for piece in pieces if piece.strip()]) > 2
    assert "w5" in said and "\x1b" not in said


def test_a_chat_remembers_and_ends_with_its_input(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    seen: list[list[str]] = []
    real = chat.next_turn

    def next_turn(model: object, tokenizer: object, messages: list[dict[str, str]], *more: object) -> str:
        seen.append([f"{message['role']}: {message['content']}" for message in messages])
        return real(model, tokenizer, messages, *more)

    monkeypatch.setattr(chat, "next_turn", next_turn)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\nAnd of Chile?\n"))

    asked(capsys, model_dir)

    (answer,) = answers(model_dir, [QUESTION], 6)
    assert seen == [[f"user: {QUESTION}"], [f"user: {QUESTION}", f"assistant: {answer}", "user: And of Chile?"]]


def test_a_chat_that_gets_too_long_begins_anew(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    shutil.copytree(model_dir, tmp_path / "short")
    config = json.loads((model_dir / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 40}))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION * 40}\nHi\n"))

    output = asked(capsys, tmp_path / "short")

    assert "tokens, and the model takes 40 at most; the chat begins anew" in output


def test_of_an_output_folder_the_last_model_answers(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "final_model").symlink_to(model_dir)
    assert asked(capsys, tmp_path, QUESTION) == asked(capsys, model_dir, QUESTION)


def test_what_cannot_answer_is_refused_in_one_line(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert refused(capsys, tmp_path) == f"kfp-osft ask: MODEL={tmp_path}: not a model folder, it has no config.json"
    assert "--base=" in refused(capsys, model_dir, "Hi", "--base", tmp_path)
    assert "allowed: an integer of at least 1" in refused(capsys, model_dir, "Hi", "--max-new-tokens", "0")
    shutil.copytree(model_dir, tmp_path / "mute")
    (tmp_path / "mute" / "chat_template.jinja").unlink()
    assert "the model has no chat template" in refused(capsys, tmp_path / "mute", "Hi")
    (tmp_path / "mute" / "model.safetensors").write_bytes(b"x")
    assert "transformers cannot load it: " in refused(capsys, tmp_path / "mute", "Hi")


def test_code_beside_a_model_is_not_run(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = tmp_path / "coded"
    shutil.copytree(model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")

    assert "transformers cannot load it" in refused(capsys, folder, "Hi")
    assert not (tmp_path / "ran").exists()
