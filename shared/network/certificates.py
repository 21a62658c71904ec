"""One set of certificate authorities for all clients: each reads a variable of its own, and knows one of them only."""

import atexit
import os
import re
import shutil
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from kfp_osft.shared.reporting.errors import InputError

#: Environment variable: a PEM file with certificate authorities, or a folder of such files.
CA_BUNDLE = "OSFT_CA_BUNDLE"
#: What the clients read: OpenSSL, httpx (the Hub) and Go (skopeo); requests; curl; botocore.
CLIENT_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
#: The ConfigMap that OpenShift AI puts into each project, and where its workbenches mount it.
CONFIG_MAP, MOUNT_PATH = "odh-trusted-ca-bundle", "/etc/pki/tls/custom-certs"
REMEDY = f"set {CA_BUNDLE} to the PEM file of the authority that signed it"

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def trust_private_authorities() -> None:
    """Lets all clients of this process trust the authorities of OSFT_CA_BUNDLE, of any client's own variable, and of
    the mounted ConfigMap, in addition to the public ones. Does nothing where there are none.

    Raises:
        InputError: a variable names a file that is missing, or holds no certificate.
    """
    given = {name: Path(path) for name in (CA_BUNDLE, *CLIENT_VARIABLES) if (path := os.environ.get(name, "").strip())}
    found = [certificate for name, path in given.items() for certificate in _named(name, path)]
    # Empty on a cluster without authorities of its own.
    found += [certificate for file in _files(Path(MOUNT_PATH)) for certificate in _certificates(file)]
    if not found:
        return
    folder = Path(tempfile.mkdtemp(prefix="kfp-osft-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _use(_written(folder / "ca-bundle.crt", [*found, *_public()]))


def move_bundle(folder: Path) -> None:
    """Puts what trust_private_authorities made, if anything, into a folder that training pods see as well."""
    bundle = os.environ.get(CA_BUNDLE)
    if bundle and all(os.environ.get(name) == bundle for name in CLIENT_VARIABLES):
        folder.mkdir(parents=True, exist_ok=True)
        _use(_written(folder / "ca-bundle.crt", _certificates(Path(bundle))))


def bundle_variables(environment: Mapping[str, str], workspace: str) -> dict[str, str]:
    """The clients' variables set to the bundle in the workspace; empty where it has none."""
    bundle = environment.get(CA_BUNDLE, "")
    return dict.fromkeys(CLIENT_VARIABLES, bundle) if Path(bundle).is_relative_to(workspace) else {}


def _named(name: str, path: Path) -> Iterator[str]:
    said = f"{name}={path} in the environment"
    if not path.exists():
        raise InputError(f"{said}: there is no such file; mount the ConfigMap or Secret with the certificates there")
    files = _files(path) if path.is_dir() else [path]
    try:
        found = [certificate for file in files for certificate in _certificates(file)]
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata="\n".join(found))
    # What is cut or is not base64 is an SSLError, and nothing at all a ValueError.
    except (ssl.SSLError, ValueError):
        raise InputError(f"{said}: holds no certificates in PEM form") from None
    except OSError as error:
        raise InputError(f"{said}: cannot be read: {error.strerror}") from None
    yield from found


def _files(folder: Path) -> list[Path]:
    return sorted(file for pattern in ("*.crt", "*.pem") for file in folder.glob(pattern) if file.is_file())


def _certificates(file: Path) -> list[str]:
    return _CERTIFICATE.findall(file.read_text(encoding="utf-8", errors="replace"))


def _public() -> list[str]:
    """Those of this system and of certifi, which requests and botocore take."""
    files = [ssl.get_default_verify_paths().openssl_cafile]
    try:
        import certifi
    except ImportError:
        pass
    else:
        files.append(certifi.where())
    return [certificate for file in map(Path, files) if file.is_file() for certificate in _certificates(file)]


def _written(file: Path, certificates: list[str]) -> Path:
    text = "\n".join(dict.fromkeys(certificates)) + "\n"
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        # Beside its place and then moved: a training pod may be reading it.
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)
    return file


def _use(bundle: Path) -> None:
    os.environ.update(dict.fromkeys((CA_BUNDLE, *CLIENT_VARIABLES), str(bundle)))
