"""Stage 6: the model."""

from kfp import dsl

from kfp_osft.stages.component import stage


@stage()
def export_model(
    checkpoint_dir: str,
    pvc_path: str,
    output_model: dsl.Output[dsl.Model],
    export_uri: str = "",
) -> str:
    """Publishes the trained model as pvc_path/models/<run> (final_model is a link to it) and as an artifact.

    Args:
        checkpoint_dir: What launch_trainjob returned.
        pvc_path: Workspace folder.
        output_model: The model's folder, as transformers loads it, with a model card; its metadata tells base model,
            data, parameters, metrics and library versions.
        export_uri: Where to push the model in addition: s3://bucket/prefix, hf://org/name or
            oci://registry/repository:tag. Empty for nowhere.

    Returns:
        Output: "training completed".
    """
    from kfp_osft.stages.export_model.export import export_model

    return export_model(checkpoint_dir, pvc_path, output_model, export_uri)
