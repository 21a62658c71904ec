"""The Containerfile of an image in which the stages install nothing: for clusters without a package index."""

import kfp

import kfp_osft
from kfp_osft import stages
from kfp_osft.stages.component import STAGE_IMAGE, check_image

_CONTAINERFILE = """\
# The stages of kfp-osft {version} with everything they would install. Build it where a package index can be reached,
#   kfp-osft image > Containerfile && podman build -t REGISTRY/kfp-osft:{version} .
# and compile the pipelines with: kfp-osft compile --image REGISTRY/kfp-osft:{version} --no-pip
FROM {image}
# Or a wheel file, copied here with: COPY kfp_osft-{version}-py3-none-any.whl /tmp/
ARG KFP_OSFT="kfp-osft=={version}"
# kfp without dependencies, as KFP itself installs it: the image has those that a stage needs.
RUN python3 -m pip install --no-cache-dir {packages} && \\
    python3 -m pip install --no-cache-dir --no-deps 'kfp=={kfp}' "$KFP_OSFT"
"""


def containerfile(image: str = STAGE_IMAGE) -> str:
    """Content of the Containerfile.

    Args:
        image: base image, with training-hub, and with skopeo if models come from a registry.

    Raises:
        InputError: image is not the name of a container image.
    """
    check_image(image)
    packages = [
        package for name in stages.__all__ for package in getattr(stages, name).options.get("packages_to_install", [])
    ]
    return _CONTAINERFILE.format(
        version=kfp_osft.__version__,
        image=image,
        packages=" ".join(f"'{package}'" for package in packages),
        kfp=kfp.__version__,
    )
