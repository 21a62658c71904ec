"""What a change of the loss on a text means: the change in perplexity, and whether it matters."""

import math

# Of the change in perplexity: below it is noise, and above it a person notices it in the answers.
_SAME, _MUCH = 0.02, 0.10


def perplexity_change(before: float, after: float) -> float:
    """The change in perplexity of two losses in nats a token, as a share: 0.28 is 28 % more."""
    return math.expm1(min(after - before, 700.0))


def change_text(before: float, after: float) -> str:
    """The change of two losses as "28% more perplexity", "66% less perplexity" or "the same perplexity"."""
    change = perplexity_change(before, after)
    if abs(change) < 0.005:
        return "the same perplexity"
    return f"{abs(change):.0%} {'more' if change > 0 else 'less'} perplexity"


def is_much_worse(before: float, after: float) -> bool:
    """Whether the perplexity of two losses rose so much that a person notices it; a loss that is no number is worse."""
    return not perplexity_change(before, after) <= _MUCH


def meaning(before: float, after: float, rose: str) -> str:
    """What to think of it: practically the same, better than before, a little worse than before, or worse.

    Args:
        before, after: losses on the same tokens, in nats a token.
        rose: what it means for the model if the loss is much higher.
    """
    change = perplexity_change(before, after)
    if abs(change) <= _SAME:
        return "practically the same"
    if change < 0:
        return "better than before"
    return f"worse than before, {rose}" if is_much_worse(before, after) else "a little worse than before"
