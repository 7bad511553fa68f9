"""Certificates and tokens of tests: an authority with its files, and servers that demand a token."""

import threading

import grpc
import trustme


class Authority:
    """An authority that signs certificates into a directory."""

    def __init__(self, directory):
        directory.mkdir()
        self.directory = directory
        self._ca = trustme.CA()
        self.file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def credentials(self, *, clients=False):
        """The credentials of a server on this machine; with `clients` it demands a certificate."""
        certificate = self._ca.issue_cert("localhost", "127.0.0.1")
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        return grpc.ssl_server_credentials(
            [(certificate.private_key_pem.bytes(), chain)],
            root_certificates=self._ca.cert_pem.bytes() if clients else None,
            require_client_auth=clients,
        )

    def identity(self, *names, of="client"):
        """Writes a certificate and key, and returns the flags of a client that name them."""
        certificate = self._ca.issue_cert(*names)
        cert, key = self.directory / f"{of}.pem", self.directory / f"{of}.key"
        certificate.cert_chain_pems[0].write_to_path(cert)
        certificate.private_key_pem.write_to_path(key)
        return {"cert": cert, "key": key}


class TokenGate(grpc.ServerInterceptor):
    """Refuses calls that do not bring the accepted bearer token, and repeats what they brought."""

    def __init__(self, accepted):
        self.accepted = accepted
        self.calls = []
        self._lock = threading.Lock()

    def intercept_service(self, continuation, details):
        brought = dict(details.invocation_metadata).get("authorization", "nothing")
        with self._lock:
            self.calls.append(brought)
        if brought == f"Bearer {self.accepted}":
            return continuation(details)

        def refuse(_requests, context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"{brought} is refused")

        return grpc.stream_stream_rpc_method_handler(refuse)

    def count(self):
        with self._lock:
            return len(self.calls)
