"""The OSFT fine-tuning as a pipeline of its own, and as one call in somebody's pipeline."""

from kfp_osft.pipelines.facade.train_model import train_model
from kfp_osft.pipelines.osft.sub_pipeline import osft_pipeline

__all__ = ["train_model", "osft_pipeline"]
