"""The parameters of evaluate_model, declared once: the stage, the pipeline with an evaluation, train_model and the
command have them by these names."""

import math

from kfp_osft.shared.parameters.parameter import Parameter

EVALUATION_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "max_forgetting",
        float,
        0.05,
        "How much worse, relative to the base model, the loss on general text, the loss on an earlier task and a "
        "benchmark's score may be: 0.05 is five percent.",
        "a number of at least 0",
        "evaluation",
        lambda value: 0 <= value < math.inf,
    ),
    Parameter(
        "min_improvement",
        float,
        0.0,
        "How much lower, relative to the base model, the loss on the held-out rows must be: 0.1 is ten percent.",
        "a number below 1; above 0 only with held-out rows",
        "evaluation",
        lambda value: -math.inf < value < 1,
    ),
    Parameter(
        "gate",
        bool,
        False,
        "Fail if the model forgot more than max_forgetting or learnt less than min_improvement; otherwise only say so.",
        "true or false",
        "evaluation",
    ),
    Parameter(
        "earlier_tasks",
        str,
        "",
        "Held-out rows of tasks that the base model was trained on before: how much of them is kept.",
        "name=path,name=path",
        "evaluation",
    ),
    Parameter(
        "benchmarks",
        str,
        "",
        "Tasks of lm-evaluation-harness (lm-eval, which must be installed), or of an Eval Hub.",
        "names separated by commas, as arc_easy,hellaswag; in an Eval Hub also provider/name",
        "evaluation",
    ),
    Parameter(
        "benchmarks_path",
        str,
        "",
        "Folder with further tasks of lm-eval, as YAML files.",
        "a path",
        "evaluation",
    ),
    Parameter(
        "evaluation_rows",
        int,
        200,
        "How many rows of each task are measured, evenly spaced.",
        "an integer of at least 1",
        "evaluation",
        lambda value: value >= 1,
    ),
    Parameter(
        "evaluation_answer_tokens",
        int,
        32,
        "Answers of at most so many tokens are compared with the model's own; 0 compares none.",
        "an integer of at least 0",
        "evaluation",
        lambda value: value >= 0,
    ),
    Parameter(
        "eval_hub_url",
        str,
        "",
        "An Eval Hub that runs the benchmarks.",
        "https://host or https://host:port",
        "evaluation",
    ),
)
