"""Where a model is to be pushed: an S3 store, the Hugging Face Hub or an OCI registry."""

import os
import re
import uuid

from kfp_osft.shared.network.errors import network_cause
from kfp_osft.shared.oci import registry
from kfp_osft.shared.oci.base_image import base_image
from kfp_osft.shared.oci.credentials import SECRET_VARIABLE
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.redaction import redacted
from kfp_osft.shared.s3 import store

HUB_SCHEME = "hf://"
ALLOWED = "s3://bucket/prefix, hf://org/name or oci://registry/repository:tag"
#: Names of a model's weights and their indexes: of all that a loader would take for some.
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*")
# Of each scheme, what the address begins with; what takes it apart says the rest.
_ADDRESSES = {store.SCHEME: r"[^/]*/[^/]", HUB_SCHEME: r"[\w.-]+/[\w.-]+$", registry.SCHEME: r"[^/]+/[^/]"}


def scheme_of(parameter: str, uri: str) -> str:
    """s3://, hf:// or oci://.

    Raises:
        InputError: the URI is none of them.
    """
    for scheme, address in _ADDRESSES.items():
        if uri.startswith(scheme) and re.match(address, uri.removeprefix(scheme), re.ASCII):
            return scheme
    raise InputError(f"{parameter}={redacted(uri)} is not allowed; allowed: {ALLOWED}")


def check_destination(parameter: str, uri: str) -> None:
    """Sees that a model can be pushed there, as far as that can be known before there is one.

    In S3 an upload is begun and given up, which leaves nothing behind. The Hub says whose the token is. A registry is
    only asked for the base image of a modelcar.

    Raises:
        InputError: a URI that is not allowed, credentials that are missing or refused, no such bucket or base image, no
            answer.
    """
    scheme = scheme_of(parameter, uri)
    if scheme == store.SCHEME:
        _check_bucket(parameter, uri)
    elif scheme == HUB_SCHEME:
        _check_token(parameter, uri)
    else:
        registry.Registry(uri, os.environ.get(SECRET_VARIABLE), parameter).check_push()
        base_image().digest()


def _check_bucket(parameter: str, uri: str) -> None:
    place = store.parse_place(parameter, uri, store.WRITING)
    with store.explained(place):
        client = store.open_store(place)
        client.list_objects_v2(Bucket=place.bucket, Prefix=place.key, MaxKeys=1)
        probe = {"Bucket": place.bucket, "Key": f"{place.key.rstrip('/')}/.write-probe-{uuid.uuid4().hex[:8]}"}
        upload = client.create_multipart_upload(**probe)
        client.abort_multipart_upload(**probe, UploadId=upload["UploadId"])


def _check_token(parameter: str, uri: str) -> None:
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if not get_token():
        raise InputError(f"{parameter}={uri}: no token of the Hugging Face Hub; set HF_TOKEN to one that may write")
    try:
        HfApi().whoami()
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise InputError(f"{parameter}={uri}: the Hugging Face Hub does not accept the token in HF_TOKEN") from None
        log(f"Warning: {parameter}={uri}: the token could not be checked: the Hub answers {str(error).splitlines()[0]}")
    # A Hub that is away, which is another exception with each HTTP client.
    except Exception as error:
        log(f"Warning: {parameter}={uri}: the Hugging Face Hub cannot be reached now: {network_cause(error)}")
