"""The image that a model is pushed on top of."""

import os

from kfp_osft.shared.oci.credentials import SECRET_VARIABLE
from kfp_osft.shared.oci.registry import SCHEME, Registry

#: Environment variable: that image. KServe runs sh, ln and sleep in a modelcar.
BASE_VARIABLE = "OSFT_MODELCAR_BASE"
#: Used where the variable is not set.
DEFAULT_BASE = "registry.access.redhat.com/ubi9/ubi-micro:latest"


def base_image() -> Registry:
    """The registry of the base image.

    Raises:
        InputError: OSFT_MODELCAR_BASE is not an image, or the credentials are malformed.
    """
    name = os.environ.get(BASE_VARIABLE, "").strip() or DEFAULT_BASE
    return Registry(f"{SCHEME}{name}", os.environ.get(SECRET_VARIABLE), BASE_VARIABLE)
