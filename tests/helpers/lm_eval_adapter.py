"""A program that an Eval Hub runs for a benchmark: lm-evaluation-harness on the served model, by the hub's SDK.

It treats the model as the provider lm_evaluation_harness of OpenShift AI does: prompts are sent as texts, and the
tokenizer is the one that the job's parameters name.
"""

import os
import time

from evalhub.adapter import (
    DefaultCallbacks,
    EvaluationResult,
    FrameworkAdapter,
    JobCallbacks,
    JobResults,
    JobSpec,
    JobStatus,
    JobStatusUpdate,
    MessageInfo,
)


class LmEval(FrameworkAdapter):
    """Runs the task that has the benchmark's name, of those in the folder that TASKS names."""

    def run_benchmark_job(self, config: JobSpec, callbacks: JobCallbacks) -> JobResults:
        import lm_eval
        from lm_eval.tasks import TaskManager

        began = time.monotonic()
        callbacks.report_status(JobStatusUpdate(status=JobStatus.RUNNING))
        found = lm_eval.simple_evaluate(
            "local-completions",
            model_args={
                "model": config.model.name,
                "base_url": f"{config.model.url}/completions",
                "tokenizer": config.parameters["tokenizer"],
                "tokenizer_backend": "huggingface",
                "tokenized_requests": False,
                "batch_size": config.parameters.get("batch_size", 1),
            },
            tasks=[config.benchmark_id],
            task_manager=TaskManager(include_path=os.environ["TASKS"]),
            bootstrap_iters=0,
        )
        return JobResults(
            id=config.id,
            benchmark_id=config.benchmark_id,
            benchmark_index=config.benchmark_index,
            model_name=config.model.name,
            results=[
                EvaluationResult(metric_name=name.partition(",")[0], metric_value=value)
                for name, value in found["results"][config.benchmark_id].items()
                if isinstance(value, float)
            ],
            num_examples_evaluated=len(found["samples"][config.benchmark_id]),
            duration_seconds=time.monotonic() - began,
            additional_info={"num_samples_effective": len(found["samples"][config.benchmark_id])},
        )


def main() -> None:
    adapter = LmEval()
    callbacks = DefaultCallbacks.from_adapter(adapter)
    try:
        results = adapter.run_benchmark_job(adapter.job_spec, callbacks)
    except Exception as error:
        problem = MessageInfo(message=f"{type(error).__name__}: {error}", message_code="evaluation_failed")
        callbacks.report_status(JobStatusUpdate(status=JobStatus.FAILED, error_message=problem))
        raise
    callbacks.report_results(results)


if __name__ == "__main__":
    main()
