"""The stages of an OSFT fine-tuning, in the order in which they run; evaluate_model is optional."""

import os

# Inside a running stage, components are neither needed nor available: kfp.dsl checks the same variable.
if os.environ.get("_KFP_RUNTIME") != "true":
    from kfp_osft.stages.collect_metrics.component import collect_metrics
    from kfp_osft.stages.evaluate_model.component import evaluate_model
    from kfp_osft.stages.export_model.component import export_model
    from kfp_osft.stages.launch_trainjob.component import launch_trainjob
    from kfp_osft.stages.preprocess.component import preprocess
    from kfp_osft.stages.render_loss_chart.component import render_loss_chart
    from kfp_osft.stages.resolve_dataset.component import resolve_dataset

__all__ = [
    "resolve_dataset",
    "preprocess",
    "launch_trainjob",
    "collect_metrics",
    "render_loss_chart",
    "export_model",
    "evaluate_model",
]
