"""Whether what a run has to fetch can be reached, before anything is started: libraries try for a minute."""

import os
import socket
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from kfp_osft.shared.model.folder import model_folder, split_hub_id
from kfp_osft.shared.network.errors import network_cause
from kfp_osft.shared.reporting.errors import InputError

_SECONDS = 2.0
_PORTS = {"http": 80, "https": 443}


def check_reachable(rows: Mapping[str, str], training: Mapping[str, Any]) -> None:
    """Sees that the hosts answer from which rows and base model would come. S3 and oci:// are left to their clients.

    Args:
        rows: dataset_uri and validation_uri.
        training: training parameters by name.

    Raises:
        InputError: the parameter, the host, and that there is no network or no answer.
    """
    for name in ("dataset_uri", "validation_uri"):
        uri = rows.get(name, "").strip()
        scheme = uri.partition("://")[0].lower() if "://" in uri else ""
        if scheme in _PORTS:
            _check(f"{name}={urlsplit(uri).hostname}", uri, "its host", "give a file of this computer")
        elif scheme == "hf" or (uri and not scheme and not os.path.exists(os.path.expanduser(uri))):
            _check(f"{name}={uri}", _hub(), "the Hugging Face Hub", "give a file of this computer")
    model = training.get("training_base_model", "").strip()
    if model and "://" not in model and model_folder(model) is None and not _is_cached(model):
        _check(f"training_base_model={model}", _hub(), "the Hugging Face Hub", "give a model folder of this computer")


def unreachable(url: str) -> str | None:
    """Why no connection to the host of a URL, or to the proxy for it, is possible within two seconds; None if it is."""
    address = urlsplit(url)
    proxy = getproxies().get(address.scheme)
    if proxy and not proxy_bypass(address.hostname or ""):
        address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    found: list[str | None] = []

    def connect() -> None:
        try:
            with socket.create_connection(
                (address.hostname or "", address.port or _PORTS.get(address.scheme, 443)), timeout=_SECONDS
            ):
                found.append(None)
        except OSError as error:
            found.append(network_cause(error))

    # Name resolution has no timeout of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return found[0] if found else "no answer in time"


def _check(what: str, url: str, place: str, instead: str) -> None:
    if why := unreachable(url):
        raise InputError(
            f"{what}: {place} ({urlsplit(url).hostname}) cannot be reached, is there no network? ({why}); {instead}"
        )


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def _is_cached(base_model: str) -> bool:
    """Whether the Hugging Face cache has the model, which preprocess then takes without the Hub."""
    from huggingface_hub import try_to_load_from_cache

    name, revision = split_hub_id(base_model)
    try:
        return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)
    except ValueError:
        return False
