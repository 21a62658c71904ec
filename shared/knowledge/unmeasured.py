"""Sentences of a model's card that say what was not measured; the card's section "Evaluation" takes their place."""

#: Of the weights.
WEIGHTS = "What the weights kept of the base model was not measured; kfp-osft check does it."
#: Of the loss on a general text.
GENERAL_TEXT = "Loss on a general text: it was not measured."
