"""S3 and stores that speak it: which one, with which credentials, and what its refusals mean.

Credentials and endpoint come from the environment: what boto3 reads, and what RHOAI's data connections are called.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from kfp_osft.shared.network.errors import is_lasting, network_cause
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.redaction import redacted

SCHEME = "s3://"
#: Ten at a time: what one connection to S3 carries is a fraction of a pod's network.
PARTS_AT_ONCE = 10
#: What credentials need to fetch, and to push.
READING = "s3:GetObject, and s3:ListBucket for a prefix"
WRITING = "s3:PutObject, s3:AbortMultipartUpload, s3:DeleteObject and s3:ListBucket"

_BEFORE_RETRY = "needs-retry.s3"
_ENDPOINTS = ("AWS_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_DEFAULT_REGION", "AWS_REGION")


class Place(NamedTuple):
    """An s3:// URI, taken apart.

    Attributes:
        key: of an object, or a prefix; without a slash at its beginning.
        endpoint: URL of the store; None for AWS's own.
        said: how messages begin.
        rights: what the credentials need there, in a message's words.
    """

    bucket: str
    key: str
    endpoint: str | None
    said: str
    rights: str


def parse_place(parameter: str, uri: str, rights: str = READING) -> Place:
    """Reads s3://bucket/key, or s3:///key where AWS_S3_BUCKET names the bucket.

    Raises:
        InputError: no bucket, credentials in the URI, or an endpoint that names the bucket too; naming the parameter.
    """
    said = f"{parameter}={redacted(uri)}"
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if "@" in bucket:
        raise InputError(f"{said}: credentials do not belong there; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    bucket = bucket or _environment("AWS_S3_BUCKET")
    if not bucket:
        raise InputError(f"{said}: names no bucket, and AWS_S3_BUCKET is not set; allowed: s3://bucket/key")
    # A data connection's name for it, and the AWS SDK's.
    endpoint = next(filter(None, map(_environment, _ENDPOINTS)), "")
    if endpoint and "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    _check_endpoint(endpoint, bucket, parameter, said)
    return Place(bucket, key.lstrip("/"), endpoint or None, said, rights)


def _check_endpoint(endpoint: str, bucket: str, parameter: str, said: str) -> None:
    """Raises InputError where the endpoint names the bucket, as consoles of stores show it: the bucket's name would
    then be taken for the first part of each key."""
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        # boto3 reports it.
        return
    if host.startswith(f"{bucket}.") or bucket in PurePosixPath(parts.path).parts:
        raise InputError(
            f"{said}: {_set_of(_ENDPOINTS)}={redacted(endpoint)} contains the bucket {bucket}, which belongs in "
            f"{parameter} only; set {_set_of(_ENDPOINTS)}={parts.scheme}://{host.removeprefix(f'{bucket}.')}{port}"
        )


def _environment(name: str) -> str:
    """The variable, without the newline that a Secret made with `echo` ends with."""
    return os.environ.get(name, "").strip()


def _set_of(names: tuple[str, ...]) -> str:
    """The name that holds; the first where none is set."""
    return next(filter(_environment, names), names[0])


def open_store(place: Place) -> Any:
    """boto3's client for the store, with the credentials of the environment.

    Raises:
        InputError: boto3 is missing, half of the credentials are, or the endpoint is not a URL.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise InputError(f"{place.said}: s3:// needs the package boto3, which this environment does not have") from None

    key_id, secret = _environment("AWS_ACCESS_KEY_ID"), _environment("AWS_SECRET_ACCESS_KEY")
    if bool(key_id) != bool(secret):
        names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
        there, missing = names if key_id else reversed(names)
        raise InputError(f"{place.said}: {there} is set and {missing} is not; set both")
    given = {
        "aws_access_key_id": key_id,
        "aws_secret_access_key": secret,
        "aws_session_token": _environment("AWS_SESSION_TOKEN") if key_id else "",
        # A data connection may leave the region empty, which boto3 takes for a region's name.
        "region_name": next(filter(None, map(_environment, _REGIONS)), "us-east-1"),
        "endpoint_url": place.endpoint,
    }
    is_other_store = place.endpoint and not is_aws(place.endpoint)
    # Other stores do not know the checksums that newer versions of botocore send.
    without_checksums = {
        name: "when_required"
        for name in ("request_checksum_calculation", "response_checksum_validation")
        if is_other_store and name in Config.OPTION_DEFAULTS
    }
    config = Config(
        **without_checksums,
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=PARTS_AT_ONCE,
        # In a cluster, bucket.host of a store has no entry in the name service.
        s3={"addressing_style": "path"} if is_other_store else None,
    )
    try:
        client = boto3.Session().client("s3", config=config, **{name: value for name, value in given.items() if value})
        client.meta.events.register_first(_BEFORE_RETRY, _give_up_what_lasts)
        return client
    except ValueError:
        raise InputError(
            f"{place.said}: {_set_of(_ENDPOINTS)}={redacted(place.endpoint or '')} is not the URL of a store; "
            "allowed: http(s)://host[:port]"
        ) from None


def _give_up_what_lasts(caught_exception: Exception | None = None, **_: Any) -> None:
    """Ends botocore's retries, which take half a minute, where another try is of no use."""
    if caught_exception is not None and is_lasting(caught_exception):
        raise caught_exception


def is_aws(endpoint: str) -> bool:
    """Whether it is an endpoint of AWS itself, which needs no naming."""
    return bool(re.search(r"\.amazonaws\.com(\.cn)?(?=[:/]|$)", endpoint))


@contextmanager
def explained(place: Place) -> Iterator[None]:
    """Turns what botocore raises into InputErrors that say what to do."""
    try:
        import botocore.exceptions as boto
        from s3transfer.exceptions import RetriesExceededError
    except ImportError:
        yield
        return
    try:
        yield
    except boto.ClientError as error:
        raise InputError(f"{place.said}: {_refusal(error.response, place)}") from None
    except (boto.NoCredentialsError, boto.CredentialRetrievalError):
        raise InputError(
            f"{place.said}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(on a cluster: the Secret of a data connection)"
        ) from None
    except boto.ParamValidationError:
        raise InputError(f"{place.said}: '{place.bucket}' is not a valid bucket name") from None
    except (boto.HTTPClientError, boto.ConnectionError, RetriesExceededError) as error:
        raise InputError(f"{place.said}: {shown_store(place)} cannot be reached: {network_cause(error)}") from None
    except boto.BotoCoreError as error:
        raise InputError(f"{place.said}: boto3 is not configured for it: {error}".splitlines()[0]) from None


def shown_store(place: Place) -> str:
    """The store as a message names it."""
    return f"the S3 store {redacted(place.endpoint)}" if place.endpoint else "the S3 store"


def _refusal(response: Mapping[str, Any], place: Place) -> str:
    code = response["Error"]["Code"]
    status = response["ResponseMetadata"]["HTTPStatusCode"]
    store = shown_store(place)
    if code == "NoSuchBucket":
        return f"{store} has no bucket {place.bucket}"
    if code == "InvalidAccessKeyId":
        return f"{store} does not know the key id in AWS_ACCESS_KEY_ID"
    if code == "SignatureDoesNotMatch":
        return f"{store} refuses the signature; AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID"
    if code in ("ExpiredToken", "InvalidToken", "ExpiredTokenException"):
        return f"{store} refuses AWS_SESSION_TOKEN: it has expired or is not valid"
    if code == "RequestTimeTooSkewed":
        return f"{store} refuses the request: the clock here differs from its own"
    if status in (301, 307) or code in ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        return f"bucket {place.bucket} is in another region than {_set_of(_REGIONS)} says"
    if status in (401, 403):
        return f"{store} denies these credentials access ({status} {code}); they need {place.rights}"
    return f"{store} answers {status} {code}"
