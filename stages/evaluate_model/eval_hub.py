"""Benchmarks by an Eval Hub: each is a job that measures a model, which this process serves meanwhile.

Source: the OpenAPI description of github.com/eval-hub/eval-hub, version 1.0.
"""

import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from kfp_osft.shared.files.manifests import fingerprint
from kfp_osft.shared.model.folder import split_hub_id
from kfp_osft.shared.processes.termination import terminable
from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.stages.evaluate_model.benchmarks import Benchmark, BenchmarkRun
from kfp_osft.stages.evaluate_model.hub_api import EvalHub, short
from kfp_osft.stages.evaluate_model.model_server import ModelServer, served_model

#: The provider of a benchmark that is named without one.
LM_EVAL = "lm_evaluation_harness"
#: Environment variable: id on the Hugging Face Hub, or path where the jobs run, of the models' tokenizer.
TOKENIZER = "EVAL_HUB_TOKENIZER"
_JOBS = "/evaluations/jobs"
_OVER = ("completed", "failed", "cancelled", "partially_failed")
# Providers have hundreds of benchmarks.
_PAGE, _MOST_PROVIDERS = 50, 5000
# Prompts in a request, which the sidecar of a job on a cluster gives 30 seconds.
_BATCH, _BATCH_ON_CPU = 8, 1
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0
# A job that neither asks the model nor gets into another state. One on a cluster waits for its image and its data.
_IDLE_SECONDS = 3600.0
# Before a training nobody waits for minutes.
_TRIES_TO_CHECK = 4
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class HubBenchmark:
    """A benchmark as the hub lists it.

    Attributes:
        name: as it was asked for.
        provider, id: the hub's ids.
        metrics: by the order in which they stand for the benchmark, its primary score first.
        lower_is_better: of the primary score.
        few_shot: number of examples in a prompt; 0 leaves it to the provider.
        questions: how many it has; 0 if that is not said.
        runtime: digest of what the provider runs.
    """

    name: str
    provider: str
    id: str
    metrics: tuple[str, ...]
    lower_is_better: bool
    few_shot: int
    questions: int
    runtime: str


def hub_benchmarks(hub: EvalHub, names: Sequence[str]) -> list[HubBenchmark]:
    """The benchmarks by name: provider/benchmark, or the benchmark alone for one of lm_evaluation_harness.

    Raises:
        InputError: the hub does not answer, or has no such benchmark.
    """
    listed = list(_providers(hub))
    # Those that users make have a UUID for an id; a name must not hide another's id.
    providers = {str(provider.get("name")): provider for provider in listed}
    providers |= {str(_object(provider.get("resource")).get("id")): provider for provider in listed}
    found = []
    for name in names:
        given, _, rest = name.partition("/")
        provider, benchmark = (given, rest) if rest and given in providers else (LM_EVAL, name)
        entries = {str(entry.get("id")): entry for entry in _objects(providers.get(provider, {}).get("benchmarks"))}
        if benchmark not in entries:
            of = f"the provider {provider} there has {_some(entries)}" if entries else ""
            raise InputError(
                f"benchmarks: {name}: not a benchmark of {hub.said}; allowed: provider/benchmark, or the benchmark "
                f"alone for one of {LM_EVAL}; {of or f'the providers there are {_some(providers)}'}"
            )
        found.append(_benchmark(name, providers[provider], entries[benchmark]))
    return found


def tokenizer_of(base_name: str, benchmarks: Sequence[HubBenchmark]) -> str:
    """The tokenizer that jobs load: that of EVAL_HUB_TOKENIZER, or of a base model from the Hugging Face Hub, which a
    tuned model has too; empty where no benchmark needs one.

    Raises:
        InputError: a benchmark of lm_evaluation_harness, and the tokenizer is not known.
    """
    given = os.environ.get(TOKENIZER, "").strip()
    name, _ = split_hub_id(base_name)
    if given or _HUB_ID.fullmatch(name):
        return given or name
    if any(benchmark.provider == LM_EVAL for benchmark in benchmarks):
        raise InputError(
            f"benchmarks: the provider {LM_EVAL} loads the model's tokenizer, and the base model {base_name} has no id "
            f"on the Hugging Face Hub; set {TOKENIZER} to an id with the same tokenizer, or to a path where the Eval "
            "Hub's jobs run"
        )
    return ""


def hub_runs(hub: EvalHub, benchmarks: Sequence[HubBenchmark], name: str, tokenizer_name: str) -> list[BenchmarkRun]:
    """The benchmarks, for the hub to run on a model.

    Args:
        hub: the server.
        benchmarks: of it.
        name: of the model in the hub.
        tokenizer_name: see tokenizer_of; or empty.
    """
    return [
        BenchmarkRun(
            each.name,
            ["eval hub", hub.url, asdict(each), tokenizer_name],
            partial(hub_score, hub, each, name, tokenizer_name),
        )
        for each in benchmarks
    ]


def hub_score(
    hub: EvalHub, benchmark: HubBenchmark, name: str, tokenizer_name: str, model: Any, tokenizer: Any
) -> Benchmark:
    """Serves the model, has the hub measure it, and returns the score. A job that is not over when this ends, for
    whatever reason, is cancelled.

    Args:
        hub: the server.
        benchmark: of it.
        name: of the model in the hub.
        tokenizer_name: see tokenizer_of; or empty.
        model: a transformers model.
        tokenizer: the model's.

    Raises:
        InputError: the job fails, is cancelled, stands still for an hour or reports no number; the hub went away.
    """
    batch = _BATCH_ON_CPU if model.device.type == "cpu" else _BATCH
    parameters = {"batch_size": batch, "num_few_shot": benchmark.few_shot, "tokenizer": tokenizer_name}
    with terminable(), served_model(model, tokenizer, name, hub.address_here()) as server:
        asked = {"id": benchmark.id, "provider_id": benchmark.provider}
        job = hub.post(
            _JOBS,
            {
                "name": f"{name}, {benchmark.id}",
                "model": {"name": name, "url": server.url},
                "benchmarks": [{**asked, "parameters": {key: value for key, value in parameters.items() if value}}],
            },
        )
        job_id = _object(job.get("resource")).get("id")
        if not isinstance(job_id, str) or not job_id:
            raise InputError(f"{hub.said}: its answer has no id of the job")
        path = f"{_JOBS}/{quote(job_id, safe='')}"
        said = f"benchmarks: {benchmark.name}: job {short(job_id)} of {hub.said}"
        log(f"{said} measures {name}, which is served at {server.place}")
        try:
            job = _end_of(hub, path, said, server)
        except BaseException:
            log(f"{said} is no longer wanted: cancelling it")
            hub.delete(path)
            raise
    return _score(job, benchmark, said, server)


def _end_of(hub: EvalHub, path: str, said: str, server: ModelServer) -> dict[str, Any]:
    """The job once it is over."""
    pause, seen, since = _FIRST_PAUSE, None, time.monotonic()
    while True:
        job = hub.get(path)
        status = _object(job.get("status"))
        if status.get("state") in _OVER:
            return job
        now = (status, server.requests)
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > _IDLE_SECONDS:
            raise InputError(f"{said} stood still for {duration_text(_IDLE_SECONDS)}{_unreached(server)}")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _score(job: Mapping[str, Any], benchmark: HubBenchmark, said: str, server: ModelServer) -> Benchmark:
    status = _object(job.get("status"))
    if status.get("state") != "completed":
        messages = [*(each.get("error_message") for each in _objects(status.get("benchmarks"))), status.get("message")]
        cause = next((text for each in messages if (text := _object(each).get("message"))), "it does not say why")
        raise InputError(f"{said}: {status.get('state')}: {short(str(cause))}{_unreached(server)}")
    results = [
        each
        for each in _objects(_object(job.get("results")).get("benchmarks"))
        if (each.get("provider_id"), each.get("id")) == (benchmark.provider, benchmark.id)
    ]
    # Some providers write a metric with its filter: acc,none.
    numbers = {
        key.partition(",")[0]: float(value)
        for each in results
        for key, value in _object(each.get("metrics")).items()
        # No booleans; and Python's integers are larger than any float.
        if (type(value) is int and abs(value) < 1 << 53) or (type(value) is float and math.isfinite(value))
    }
    first = next((metric for metric in benchmark.metrics if metric in numbers), None)
    first = first or next((metric for metric in numbers if not metric.endswith("_stderr")), None)
    if first is None:
        raise InputError(f"{said}: completed, and reports no number")
    asked = next((_object(each.get("additional_info")).get("num_samples_effective") for each in results), None)
    lower = benchmark.lower_is_better and first == benchmark.metrics[0]
    return Benchmark(first, numbers[first], not lower, asked if type(asked) is int else benchmark.questions)


def _unreached(server: ModelServer) -> str:
    if server.requests:
        return ""
    return f"; it never reached the model at {server.place}, which jobs of the Eval Hub must be able to connect to"


def _providers(hub: EvalHub) -> Iterator[dict[str, Any]]:
    for at in range(0, _MOST_PROVIDERS, _PAGE):
        page = hub.get(f"/evaluations/providers?limit={_PAGE}&offset={at}", _TRIES_TO_CHECK)
        if not isinstance(page.get("items"), list):
            raise InputError(f"{hub.said}: its list of providers is not that of an Eval Hub")
        yield from _objects(page["items"])
        if len(page["items"]) < _PAGE:
            return


def _benchmark(name: str, provider: Mapping[str, Any], entry: Mapping[str, Any]) -> HubBenchmark:
    primary = _object(entry.get("primary_score"))
    listed = entry.get("metrics")
    metrics = [primary.get("metric"), *(listed if isinstance(listed, list) else [])]
    few_shot, questions = entry.get("num_few_shot"), entry.get("dataset_size")
    return HubBenchmark(
        name,
        str(_object(provider.get("resource")).get("id")),
        str(entry["id"]),
        tuple(metric for metric in metrics if isinstance(metric, str)),
        primary.get("lower_is_better") is True,
        few_shot if type(few_shot) is int else 0,
        questions if type(questions) is int else 0,
        fingerprint(provider.get("runtime")),
    )


def _some(names: Iterable[str]) -> str:
    known = sorted(names)
    return short(", ".join(known[:20])) + (f" and {len(known) - 20} more" if len(known) > 20 else "") or "none"


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
