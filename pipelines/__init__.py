"""The OSFT fine-tuning as a pipeline of its own, and as one call in somebody's pipeline."""

from kfp_osft.pipelines.osft import osft_pipeline
from kfp_osft.pipelines.train_model import train_model

__all__ = ["train_model", "osft_pipeline"]
