"""An HTTPS host on this machine that stands for any host of the internet."""

from __future__ import annotations

import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpcore2 as httpcore

TLS = Path(__file__).parents[1] / "data" / "tls"
PUBLIC = "93.184.216.34"
"""A public address; nothing is ever sent there."""


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's table of paths."""

    server: Host

    def do_GET(self):
        status, headers, body = self.server.pages.get(self.path, (404, {}, b""))
        self.server.asked.append(f"{self.headers['Host']}{self.path}")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        for byte in self.server.drips.get(self.path, b""):
            self.flush_headers()
            self.wfile.write(bytes([byte]))
            time.sleep(0.2)
        self.end_headers()
        for piece in body if isinstance(body, list) else [body]:
            self.wfile.write(piece)
            self.wfile.flush()
            if isinstance(body, list):
                time.sleep(0.2)

    def log_message(self, *args):
        pass


class Host(ThreadingHTTPServer):
    """The host; use it in a ``with``.

    Attributes:
        pages: Status, headers and body by path; a body that is a list comes slowly.
        drips: More of the headers by path, which comes byte by byte.
        asked: Host and path of every request.
        dialled: Every address that :meth:`dial` was asked to connect to.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
        self.socket = own.wrap_socket(self.socket, server_side=True)
        self.pages, self.drips, self.asked, self.dialled = {}, {}, [], []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # clients that hang up are part of the tests

    def dial(self, address, port, timeout):
        """Connect to this host, whatever the address."""
        self.dialled.append(address)
        return httpcore.SyncBackend().connect_tcp(*self.server_address[:2], timeout=timeout)


def trusting() -> ssl.SSLContext:
    """A context that trusts the host's certificate."""
    return ssl.create_default_context(cafile=str(TLS / "certificate.pem"))
