"""Fetches pictures from hosts that the server allows, and from no private address.

A host name is resolved once per connection. All of its addresses must be public, and the connection
goes to one of those that were checked, so that a name that resolves to something else a moment
later (DNS rebinding) gains nothing. Redirects are followed by hand, each checked like the first
address.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore2 as httpcore

from twigkit.errors import InputError

Resolve = Callable[[str, int], list[str]]
"""Returns the addresses of a host name, as text."""

Dial = Callable[[str, int, float], httpcore.NetworkStream]
"""Connects to an address, a port and within so many seconds."""

MOST_REDIRECTS = 3


def resolve(host: str, port: int) -> list[str]:
    """Resolve a host name with the system's resolver.

    Args:
        host: The name, or an address.
        port: The port.

    Returns:
        Its addresses.

    Raises:
        OSError: If there are none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def dial(address: str, port: int, timeout: float) -> httpcore.NetworkStream:
    """Connect to an address."""
    return httpcore.SyncBackend().connect_tcp(address, port, timeout=timeout)


def is_public(address: str) -> bool:
    """Say whether an address is one of the public internet.

    Private, loopback, link-local, multicast and reserved ones are not, nor are IPv6 addresses that
    carry such an IPv4 address.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    inner = []
    if isinstance(parsed, ipaddress.IPv6Address):
        carried = (parsed.ipv4_mapped, parsed.sixtofour, *(parsed.teredo or ()))
        inner = [each for each in carried if each is not None]
        if parsed in ipaddress.ip_network("64:ff9b::/96"):  # NAT64: the last four bytes
            inner.append(ipaddress.IPv4Address(parsed.packed[-4:]))
    return all(each.is_global and not each.is_multicast for each in (parsed, *inner))


class Deadline:
    """When a fetch has to be over, however little comes at a time."""

    def __init__(self, seconds: float) -> None:
        """Start the clock."""
        self._until = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            TimeoutError: If there are none.
        """
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _TimedStream(httpcore.NetworkStream):
    """A connection of which no call waits beyond a deadline, which stands in place of timeouts."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what is there."""
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of it."""
        self._stream.write(buffer, self._deadline.left())

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Shake hands."""
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left())
        return _TimedStream(stream, self._deadline)

    def close(self) -> None:
        """Hang up."""
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        """Return what the connection itself says."""
        return self._stream.get_extra_info(info)


class PublicNetwork(httpcore.NetworkBackend):
    """Connects to public addresses only, to those that were checked, and until a deadline."""

    def __init__(self, resolve: Resolve, dial: Dial, deadline: Deadline) -> None:
        """Take what touches the network.

        Args:
            resolve: Resolves names.
            dial: Connects to an address.
            deadline: Stands in place of all timeouts.
        """
        self._resolve, self._dial, self._deadline = resolve, dial, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve a host, check every address, and connect to the first.

        Raises:
            InputError: If the name has no address, or one that is not public.
            TimeoutError: If no time is left.
        """
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise InputError(f"the host {host!r} of a picture cannot be found; check the URL")
        if not all(is_public(address) for address in addresses):
            raise InputError(
                f"the host {host!r} of a picture has a private address; the server fetches from "
                "public ones only, so send the picture as a data URL"
            )
        stream = self._dial(addresses[0], port, self._deadline.left())
        return _TimedStream(stream, self._deadline)


class Fetcher:
    """Fetches what lies at https URLs of allowed hosts.

    Attributes:
        hosts: The allowed host names.
    """

    def __init__(
        self,
        hosts: Collection[str],
        *,
        most_bytes: int,
        seconds: float,
        resolve: Resolve = resolve,
        dial: Dial = dial,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Take the limits.

        Args:
            hosts: Host names that may be fetched from, without ports.
            most_bytes: Most bytes of a body.
            seconds: Most time of a fetch, redirects included.
            resolve: Resolves names.
            dial: Connects to an address.
            ssl_context: Certificates that are trusted; ``None`` for the system's.
        """
        self.hosts = frozenset(host.lower() for host in hosts)
        self._most, self._seconds = most_bytes, seconds
        self._resolve, self._dial = resolve, dial
        self._ssl = ssl_context

    def get(self, url: str) -> bytes:
        """Fetch a body.

        Args:
            url: An https URL of an allowed host.

        Returns:
            The body.

        Raises:
            InputError: If the URL, or one that it redirects to, may not be fetched, or nothing
                usable comes from there within the limits.
        """
        network = PublicNetwork(self._resolve, self._dial, Deadline(self._seconds))
        try:
            for _ in range(MOST_REDIRECTS + 1):
                found = self._get_once(self._checked(url), network)
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found)
        except (httpcore.TimeoutException, TimeoutError):
            raise InputError(
                f"fetching a picture took more than {self._seconds:g} s; send it as a data URL"
            ) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError, UnicodeError) as error:
            raise InputError(
                f"a picture cannot be fetched ({type(error).__name__}); check the URL, or send it "
                "as a data URL"
            ) from error
        raise InputError(
            f"the URL of a picture redirects more than {MOST_REDIRECTS} times; give the last one"
        )

    def _checked(self, url: str) -> str:
        """Return a URL that may be fetched."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise InputError("the URL of a picture is malformed; give https://host/path") from None
        if parts.scheme != "https" or parts.username is not None or parts.password is not None:
            raise InputError(
                "a picture's URL is fetched if it begins with https:// and has no user name; "
                "send another picture as a data URL"
            )
        if host not in self.hosts or port not in (None, 443):
            raise InputError(
                f"the server does not fetch from {host[:100]!r}; send the picture as a data URL, "
                "or ask its operator for --allowed-media-domains"
            )
        return url

    def _get_once(self, url: str, network: PublicNetwork) -> bytes | str:
        """Fetch one URL; return its body, or where it redirects to."""
        headers = [(b"Accept", b"image/*"), (b"Accept-Encoding", b"identity")]
        with (
            httpcore.ConnectionPool(
                ssl_context=self._ssl, network_backend=network, max_connections=1
            ) as pool,
            pool.stream("GET", url, headers=headers) as response,
        ):
            if response.status in (301, 302, 303, 307, 308):
                for name, value in response.headers:
                    if name.lower() == b"location":
                        return str(value.decode("ascii"))
            if response.status != 200:
                raise InputError(f"a picture's URL answers {response.status}; check the URL")
            return self._body(response)

    def _body(self, response: httpcore.Response) -> bytes:
        """Read a body that is not too large."""
        body = bytearray()
        for piece in response.iter_stream():
            body += piece
            if len(body) > self._most:
                raise InputError(
                    f"a picture has more than {self._most:,} bytes; send a smaller one"
                )
        return bytes(body)


__all__ = ["Deadline", "Fetcher", "PublicNetwork", "dial", "is_public", "resolve"]
