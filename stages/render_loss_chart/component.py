"""Stage 5: the loss chart."""

from kfp import dsl

from kfp_osft.stages.component import stage


@stage(packages_to_install=["altair==6.3.0", "vl-convert-python==1.9.0.post1"])
def render_loss_chart(
    metrics_path: str,
    output_loss_chart: dsl.Output[dsl.HTML],
):
    """Draws the training's loss, learning rate, gradient norm and speed in one HTML page that needs no network.

    Args:
        metrics_path: What collect_metrics returned.
        output_loss_chart: The page.
    """
    from kfp_osft.stages.render_loss_chart.rendering import render

    render(metrics_path, output_loss_chart.path)
