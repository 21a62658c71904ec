"""Benchmarks by an Eval Hub that can do anything."""

import os
import signal
import threading

import pytest

from fakes.eval_hub import OWN, PROVIDER, FakeEvalHub
from kfp_osft.shared.model.loss import loaded_model
from kfp_osft.shared.processes.termination import Terminated
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.evaluate_model import eval_hub, hub_api, measuring
from kfp_osft.stages.evaluate_model.benchmarks import Benchmark
from kfp_osft.stages.evaluate_model.eval_hub import TOKENIZER, hub_benchmarks, hub_runs, tokenizer_of
from kfp_osft.stages.evaluate_model.evaluation import check_possible, evaluate, models_of
from kfp_osft.stages.evaluate_model.hub_api import TENANT, TOKEN, EvalHub
from kfp_osft.stages.evaluate_model.options import checked_options

JOBS = "/api/v1/evaluations/jobs"
JOB = f"{JOBS}/job%2F1"


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    for name in (TOKEN, TENANT, TOKENIZER):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub_api, "_ACCOUNT", tmp_path / "account")
    monkeypatch.setattr(hub_api, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(eval_hub, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(eval_hub, "_LONGEST_PAUSE", 0.02)


@pytest.fixture
def fake():
    with FakeEvalHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def loaded(changed):
    with loaded_model(changed) as (model, tokenizer):
        yield model, tokenizer


@pytest.fixture
def score(fake, loaded):
    """The score of one benchmark."""

    def run(name="arc_easy"):
        hub = EvalHub(fake.url)
        (benchmark,) = hub_runs(hub, hub_benchmarks(hub, [name]), "tiny-osft", "org/base")
        return benchmark.score(*loaded)

    return run


def test_a_job_names_the_model_its_url_and_the_benchmark_and_its_primary_score_counts(fake, score):
    assert score() == Benchmark("acc_norm", 0.25, True, 2376)
    ((path, job),) = fake.asked("POST")
    assert path == JOBS and job["name"] == "tiny-osft, arc_easy" and job["model"]["name"] == "tiny-osft"
    assert job["model"]["url"].startswith("http://127.0.0.1:") and job["model"]["url"].endswith("/v1")
    assert job["benchmarks"] == [
        {
            "id": "arc_easy",
            "provider_id": "lm_evaluation_harness",
            "parameters": {"batch_size": 1, "num_few_shot": 5, "tokenizer": "org/base"},
        }
    ]
    assert [path for path, _ in fake.asked("GET")[1:]] == [JOB] * 3
    assert fake.asked("DELETE") == []


@pytest.mark.parametrize(
    ("name", "metrics", "expected"),
    [
        ("lm_evaluation_harness/arc_easy", {"acc": 1}, ("acc", 1.0, True)),
        ("arc_easy", {"acc_norm,none": 0.5, "acc,none": 1}, ("acc_norm", 0.5, True)),
        ("wikitext", {"ppl": 20.5, "word_perplexity": 3.0}, ("ppl", 20.5, False)),
        ("mine/suite/one", {"b_stderr": 0.1, "ok": True, "name": "x", "z": 7}, ("z", 7.0, True)),
        ("0b5f0b0e/suite/one", {"bad": float("nan"), "z": 7}, ("z", 7.0, True)),
    ],
)
def test_the_metric_is_the_primary_score_or_else_the_first_number_that_is_no_error(
    fake, score, name, metrics, expected
):
    fake.metrics = metrics
    found = score(name)
    assert (found.metric, found.value, found.higher_is_better) == expected


@pytest.mark.parametrize(
    ("states", "problem"),
    [
        (["pending", "failed"], "failed: the adapter gave up; it never reached the model at 127.0.0.1:"),
        (["partially_failed"], "partially_failed: the adapter gave up"),
        (["cancelled"], "cancelled: cancelled"),
    ],
)
def test_a_job_that_is_not_completed_says_why_and_whether_it_reached_the_model(fake, score, states, problem):
    fake.states = states
    with pytest.raises(InputError, match=f"^benchmarks: arc_easy: job job/1 of eval_hub_url={fake.url}: {problem}"):
        score()


def test_the_secret_in_the_models_url_does_not_come_back_in_an_error(fake, score):
    def tell(handler):
        fake.answers.clear()
        fake.message = f"Max retries exceeded with url: {fake.asked('POST')[0][1]['model']['url']}/completions"
        handler.do_GET()

    fake.states = ["failed"]
    fake.answers["GET", JOB] = tell
    with pytest.raises(InputError, match=r"exceeded with url: http://127.0.0.1:\d+/\*\*\*/v1/completions"):
        score()


@pytest.mark.parametrize("metrics", [{}, {"acc": "good"}, {"acc": 10**400}, {"acc": None, "acc_stderr": 0.1}, [], None])
def test_a_job_without_a_number_is_an_error(fake, score, metrics):
    fake.metrics = metrics
    with pytest.raises(InputError, match="job job/1 of .*: completed, and reports no number"):
        score()


def test_a_job_that_stands_still_is_cancelled(fake, score, monkeypatch):
    monkeypatch.setattr(eval_hub, "_IDLE_SECONDS", 0.2)
    fake.states = ["pending"]
    with pytest.raises(InputError, match="stood still for .*; it never reached the model at"):
        score()
    assert fake.asked("DELETE") == [(JOB, None)]


def test_a_job_is_cancelled_if_the_hub_goes_away(fake, score):
    fake.answers["GET", JOB] = (503, {"message": "away"})
    with pytest.raises(InputError, match="HTTP 503, away"):
        score()
    assert fake.asked("DELETE") == [(JOB, None)]


def test_a_job_is_cancelled_if_the_stage_is_ended(fake, score, capsys):
    fake.states = ["running"]
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Terminated):
        score()
    timer.join()
    assert fake.asked("DELETE") == [(JOB, None)]
    assert "is no longer wanted: cancelling it" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [{}, {"resource": None}, {"resource": {"id": 3}}, {"resource": {"id": ""}}])
def test_a_hub_that_names_no_job_is_an_error(fake, score, answer):
    fake.answers["POST", JOBS] = (202, answer)
    with pytest.raises(InputError, match="its answer has no id of the job"):
        score()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("arc_hard", "the provider lm_evaluation_harness there has arc_easy, wikitext$"),
        ("mine/other", "the provider mine there has suite/one$"),
        ("theirs/arc_easy", "the provider lm_evaluation_harness there has arc_easy, wikitext$"),
    ],
)
def test_an_unknown_benchmark_is_named_with_those_that_there_are(fake, name, problem):
    with pytest.raises(
        InputError, match=f"^benchmarks: {name}: not a benchmark of eval_hub_url=.*; allowed: .*{problem}"
    ):
        hub_benchmarks(EvalHub(fake.url), ["arc_easy", name])


def test_a_list_of_providers_without_an_end_is_given_up(fake, monkeypatch):
    monkeypatch.setattr(eval_hub, "_MOST_PROVIDERS", 150)
    fake.providers = [OWN] * 50
    with pytest.raises(InputError, match="^benchmarks: arc_easy: not a benchmark of"):
        hub_benchmarks(EvalHub(fake.url), ["arc_easy"])
    assert len(fake.requests) == 3


def test_without_the_usual_provider_the_others_are_named(fake):
    fake.providers = [OWN, {**OWN, "benchmarks": [{"id": []}, 3]}, 3]
    with pytest.raises(InputError, match="the providers there are 0b5f0b0e, mine$"):
        hub_benchmarks(EvalHub(fake.url), ["arc_easy"])


def test_a_users_provider_cannot_take_the_place_of_another_by_its_name(fake):
    fake.providers = [PROVIDER, {**OWN, "name": "lm_evaluation_harness", "benchmarks": [{"id": "arc_easy"}]}]
    (found,) = hub_benchmarks(EvalHub(fake.url), ["lm_evaluation_harness/arc_easy"])
    assert found.metrics[0] == "acc_norm"


def test_all_pages_of_providers_are_read(fake):
    more = [{**OWN, "resource": {"id": f"p{at}"}, "name": f"n{at}"} for at in range(49)]
    pages = [[*more, OWN], [PROVIDER]]
    fake.answers["GET", "/api/v1/evaluations/providers"] = lambda handler: _page(handler, pages.pop(0))
    (found,) = hub_benchmarks(EvalHub(fake.url), ["arc_easy"])
    assert found.provider == "lm_evaluation_harness"
    assert [path.partition("?")[2] for path, _ in fake.asked("GET")] == ["limit=50&offset=0", "limit=50&offset=50"]


@pytest.mark.parametrize(
    ("base", "variable", "expected"),
    [
        ("Qwen/Qwen2-7B@abc", "", "Qwen/Qwen2-7B"),
        ("model", "Qwen/Qwen2-7B", "Qwen/Qwen2-7B"),
        ("Qwen/Qwen2-7B", "/test_data/tokenizer", "/test_data/tokenizer"),
    ],
)
def test_jobs_load_the_base_models_tokenizer_or_the_one_of_the_variable(fake, monkeypatch, base, variable, expected):
    monkeypatch.setenv(TOKENIZER, variable)
    assert tokenizer_of(base, hub_benchmarks(EvalHub(fake.url), ["arc_easy"])) == expected


def test_a_tokenizer_that_jobs_could_not_load_is_refused_where_one_is_needed(fake):
    hub = EvalHub(fake.url)
    with pytest.raises(
        InputError, match="the base model oci://quay.io/org/model has no id on the .*; set EVAL_HUB_TOK"
    ):
        tokenizer_of("oci://quay.io/org/model", hub_benchmarks(hub, ["arc_easy"]))
    assert tokenizer_of("model", hub_benchmarks(hub, ["mine/suite/one"])) == ""


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "^eval_hub_url=http://127.* needs benchmarks: name those that it is to run"),
        ({"benchmarks": "arc_easy", "benchmarks_path": "."}, "^benchmarks_path=. is not allowed with eval_hub_url"),
        ({"benchmarks": "arc_hard"}, "^benchmarks: arc_hard: not a benchmark of"),
    ],
)
def test_what_a_hub_cannot_do_is_refused_before_a_training(fake, options, problem):
    with pytest.raises(InputError, match=problem):
        check_possible(checked_options({"eval_hub_url": fake.url, **options}), True, "org/base")


def test_a_bad_url_is_reported_with_the_other_parameters():
    with pytest.raises(InputError) as refused:
        checked_options({"eval_hub_url": "hub", "max_forgetting": -1.0})
    assert [line.partition("=")[0] for line in str(refused.value).splitlines()] == ["max_forgetting", "eval_hub_url"]


def test_both_models_are_measured_once_and_again_if_the_provider_runs_something_else(
    fake, tiny_model, tuned, tmp_path, monkeypatch
):
    monkeypatch.setattr(measuring, "general_texts", dict)
    monkeypatch.setenv(TOKENIZER, "org/base")
    models = models_of(str(tiny_model), str(tuned))

    def run(**options):
        fake.states, fake.requests = ["completed"], []
        options = checked_options({"eval_hub_url": fake.url, "benchmarks": "arc_easy", **options})
        result = evaluate(models, None, options, tmp_path / "result", tmp_path / "cache")
        return result, [job["model"]["name"] for _, job in fake.asked("POST")]

    result, names = run()
    assert names == [models.base_name, "tiny-osft"] and result.passed
    assert result.metrics()["arc_easy_acc_norm_before"] == 0.25
    # A restarted hub has other times, and the same provider.
    fake.providers = [{**PROVIDER, "resource": {**PROVIDER["resource"], "updated_at": "2030-01-01T00:00:00Z"}}]
    assert run()[1] == []
    fake.providers = [{**PROVIDER, "runtime": {"k8s": {"image": "quay.io/example/adapter:2"}}}]
    assert run()[1] == names
    # Base and tuned model are compared by the same metric.
    fake.providers = [{**PROVIDER, "benchmarks": [{"id": "arc_easy", "primary_score": {"metric": "acc"}}]}]
    result, jobs = run()
    assert jobs == names and result.metrics()["arc_easy_acc_before"] == 0.5


def _page(handler, items):
    import json

    content = json.dumps({"items": items}).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
