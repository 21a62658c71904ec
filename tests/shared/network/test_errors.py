import socket
import ssl

import pytest

from kfp_osft.shared.network.errors import is_lasting, network_cause


def wrapped(cause: Exception) -> Exception:
    """As HTTP clients nest it: in an argument, with a message that holds the URL."""
    return RuntimeError("https://user:secret@host/", cause)


def plain_http() -> ssl.SSLError:
    """What a client over TLS gets from a server that answers in plain HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
        with client, peer:
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(ssl.SSLError) as caught:
                ssl.create_default_context().wrap_socket(client, server_hostname="127.0.0.1")
    return caught.value


def test_a_server_without_tls_is_told_as_such_and_not_asked_again():
    error = wrapped(plain_http())
    assert network_cause(error) == "TLS failed: it answers in plain HTTP; write http:// before its host"
    assert is_lasting(error)


def test_a_certificate_that_is_not_trusted_names_the_remedy_and_is_not_asked_again():
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    cause.verify_message = "self-signed certificate"
    assert network_cause(wrapped(cause)) == (
        "TLS failed: its certificate is not trusted (self-signed certificate); set OSFT_CA_BUNDLE to the PEM file of "
        "the authority that signed it"
    )
    assert is_lasting(wrapped(cause))


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (socket.gaierror(-2, "x"), "its host name cannot be resolved"),
        (TimeoutError(), "no answer in time"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
    ],
)
def test_other_causes_are_told_without_the_url(cause: Exception, words: str):
    assert network_cause(wrapped(cause)) == words
