"""Answers requests of OpenAI's completions API with a loaded model: scores of a text, or a greedy continuation."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from kfp_osft.shared.model.folder import config_value
from kfp_osft.stages.evaluate_model.greedy_answers import batches, greedy_answers

# The logits of a token are a float32 for each token of the vocabulary.
_SCORED_AT_ONCE = 1024
_MOST_LOGPROBS = 5
# JSON has no infinity.
_LEAST = -9999.0
# Whose other values would need what is not built here; None is the API's default of each.
_FIXED: Mapping[str, Any] = {
    "n": 1,
    "best_of": 1,
    "stream": False,
    "temperature": 0,
    "suffix": "",
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
}


class Refused(Exception):
    """A request that gets an error as its answer: status of HTTP, and OpenAI's code for it, if there is one."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Prompt(NamedTuple):
    """hidden: the tokens that the tokenizer puts before each text (a begin token), which count as context and are not
    echoed: a client counts the tokens of its own text. text: of a prompt that was given as token ids, None."""

    hidden: list[int]
    ids: list[int]
    text: str | None

    @property
    def all_ids(self) -> list[int]:
        return [*self.hidden, *self.ids]


class _Score(NamedTuple):
    """Log probabilities of a prompt's tokens, and of the one after it; the first of all tokens has none."""

    values: list[float | None]
    tops: list[dict[int, float] | None]
    next_id: int


class Completions:
    """Answers requests; one at a time."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.vocabulary = model.get_input_embeddings().weight.shape[0]
        #: The longest prompt with its answer, in tokens; None where the config does not say.
        self.context: int | None = config_value(model.config.to_dict(), "max_position_embeddings")

    def answer(self, request: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """The choices, one for each prompt, and the usage in tokens.

        Args:
            request: `prompt` (a text, token ids, or a list of either), `max_tokens` (16), `stop`, `echo` and `logprobs`
                (up to 5; with one of them, max_tokens is at most 1), as OpenAI's completions have them. Temperature is
                0; the seed does nothing.

        Raises:
            Refused: 400, a value that is not allowed, or a prompt that is longer than the model's context.
        """
        for name, fixed in _FIXED.items():
            if request.get(name) is not None and request[name] != fixed:
                raise Refused(400, f"{name} can only be {fixed!r} here")
        most = _whole(request, "max_tokens", 16, None)
        logprobs = _whole(request, "logprobs", None, _MOST_LOGPROBS)
        echo = bool(request.get("echo"))
        if (echo or logprobs is not None) and most > 1:
            raise Refused(400, "echo and logprobs are only served with a max_tokens of at most 1")
        prompts = [self._prompt(each) for each in _prompts(request.get("prompt"))]
        for prompt in prompts:
            asked = len(prompt.all_ids) + most
            if self.context is not None and asked > self.context:
                raise Refused(
                    400,
                    f"this model's maximum context length is {self.context} tokens, and the prompt with max_tokens has "
                    f"{asked}",
                    "context_length_exceeded",
                )
        if echo or logprobs is not None:
            found = [
                self._scored(*each, most, echo, logprobs)
                for each in zip(prompts, self._scores(prompts, logprobs or 0), strict=True)
            ]
        else:
            found = self._continued(prompts, most, _stops(request.get("stop")))
        choices = [{"index": at, **choice} for at, (choice, _) in enumerate(found)]
        asked, made = sum(len(prompt.all_ids) for prompt in prompts), sum(tokens for _, tokens in found)
        return choices, {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}

    def _prompt(self, given: str | list[int]) -> _Prompt:
        if isinstance(given, list):
            if any(not 0 <= token < self.vocabulary for token in given):
                raise Refused(400, f"prompt has a token id outside the model's vocabulary of {self.vocabulary}")
            return _Prompt([], given, None)
        plain = self.tokenizer(given, add_special_tokens=False)["input_ids"]
        whole = self.tokenizer(given)["input_ids"]
        hidden = whole[: len(whole) - len(plain)] if whole[len(whole) - len(plain) :] == plain else []
        if plain[: len(hidden)] == hidden:
            # The text brings its own.
            hidden = []
        if not hidden and not plain:
            raise Refused(400, "prompt is empty")
        return _Prompt(hidden, plain, given)

    def _scores(self, prompts: Sequence[_Prompt], top: int) -> list[_Score]:
        import torch

        scores: dict[int, _Score] = {}
        rows = [prompt.all_ids for prompt in prompts]
        for batch in batches(rows, [0] * len(rows), _SCORED_AT_ONCE):
            # Padded on the right, which a causal model does not attend to: no mask is needed.
            ids = torch.zeros(len(batch), max(len(rows[at]) for at in batch), dtype=torch.long)
            for row, at in zip(ids, batch, strict=True):
                row[: len(rows[at])] = torch.tensor(rows[at])
            with torch.inference_mode():
                logits = self.model(ids.to(self.model.device)).logits
            for at, of_row in zip(batch, logits, strict=True):
                likelihoods = of_row[: len(rows[at])].float().log_softmax(-1)
                best = likelihoods.topk(max(top, 1))
                next_id = int(best.indices[-1, 0])
                wanted = torch.tensor([*rows[at][1:], next_id], device=likelihoods.device)
                values = likelihoods.gather(1, wanted[:, None])[:, 0].tolist()
                if any(map(math.isnan, values)):
                    raise ValueError("the model's logits are not numbers")
                tops = [
                    dict(zip(indices[:top], map(_finite, found), strict=False))
                    for indices, found in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                ]
                scores[at] = _Score([None, *map(_finite, values)], [None, *tops], next_id)
        return [scores[at] for at in range(len(rows))]

    def _scored(
        self, prompt: _Prompt, score: _Score, most: int, echo: bool, logprobs: int | None
    ) -> tuple[dict[str, Any], int]:
        ids = [*prompt.all_ids, score.next_id]
        begin, end = len(prompt.hidden) if echo else len(ids) - 1, len(ids) if most else len(ids) - 1
        tokens = [self.tokenizer.decode([token]) for token in ids[begin:end]]
        text = (prompt.text if prompt.text is not None else self.tokenizer.decode(prompt.ids)) if echo else ""
        choice = {
            "text": text + (self.tokenizer.decode([score.next_id], skip_special_tokens=True) if most else ""),
            "finish_reason": "length",
            "logprobs": None
            if logprobs is None
            else {
                "tokens": tokens,
                "token_logprobs": score.values[begin:end],
                "top_logprobs": [
                    None if value is None or top is None else self._named(top, token, value)
                    for token, value, top in zip(
                        ids[begin:end], score.values[begin:end], score.tops[begin:end], strict=True
                    )
                ],
                "text_offset": list(accumulate(map(len, tokens[:-1]), initial=0)),
            },
        }
        return choice, most

    def _named(self, top: Mapping[int, float], token: int, value: float) -> dict[str, float]:
        """By the tokens' texts; of two with the same text, the likelier: a client takes the largest for the model's
        own choice."""
        named: dict[str, float] = {}
        for each, likelihood in {**top, token: value}.items():
            text = self.tokenizer.decode([each])
            named[text] = max(likelihood, named.get(text, _LEAST))
        return named

    def _continued(
        self, prompts: Sequence[_Prompt], most: int, stops: Sequence[str]
    ) -> list[tuple[dict[str, Any], int]]:
        if not most:
            raise Refused(400, "max_tokens=0 needs echo or logprobs")
        rows = [prompt.all_ids for prompt in prompts]
        found = []
        for answer in greedy_answers(self.model, self.tokenizer, rows, [most] * len(rows), stops):
            whole = self.tokenizer.decode(answer, skip_special_tokens=True)
            text = whole[: min((at for stop in stops if (at := whole.find(stop)) >= 0), default=len(whole))]
            ended = len(text) < len(whole) or len(answer) < most
            choice = {"text": text, "finish_reason": "stop" if ended else "length", "logprobs": None}
            found.append((choice, len(answer)))
        return found


def _prompts(given: Any) -> list[str | list[int]]:
    if isinstance(given, str) or _is_ids(given):
        return [given]
    if isinstance(given, list) and given and all(isinstance(each, str) or _is_ids(each) for each in given):
        return given
    raise Refused(400, "prompt must be a text, token ids, or a list of texts or of lists of token ids")


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _stops(given: Any) -> list[str]:
    stops = [given] if isinstance(given, str) else given or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise Refused(400, "stop must be a text or a list of texts")
    return [stop for stop in stops if stop]


def _whole(request: Mapping[str, Any], name: str, default: Any, most: int | None) -> Any:
    value = request.get(name)
    if value is None:
        return default
    if type(value) is not int or value < 0 or (most is not None and value > most):
        raise Refused(400, f"{name} must be an integer of at least 0{f' and at most {most}' if most else ''}")
    return value


def _finite(value: float) -> float:
    return max(value, _LEAST)
