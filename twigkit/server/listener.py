"""The socket that the server listens on."""

from __future__ import annotations

import socket

from twigkit.errors import InputError

_MOST_CONNECTIONS = 65_536


def listen(host: str, port: int) -> socket.socket:
    """Bind an address before a model is loaded, so that a taken port is noticed early.

    Args:
        host: Address or name to listen on.
        port: Port; 0 takes any that is free.

    Returns:
        The bound socket.

    Raises:
        InputError: If the address cannot be used.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"cannot listen on {host}:{port}: ports are from 0 to 65535; choose one")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}:{port}: {error}; choose another") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(
            f"cannot listen on {host}:{port}: {error}; choose another with --host and --port"
        ) from error
    return listener


def allow_connections() -> None:
    """Let the process have as many connections as the system grants it, up to 65,536.

    Each is an open file, of which a process often starts with 1,024. Where none is left, asyncio
    writes thousands of lines a second to the log, and nobody is answered.
    """
    try:
        import resource
    except ImportError:  # not on Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, _MOST_CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def accept(listener: socket.socket, waiting: int) -> None:
    """Let clients connect, once the model is loaded.

    Args:
        listener: A bound socket.
        waiting: Connections that may wait to be answered.

    Raises:
        InputError: If another server has taken the address since it was bound: two that start
            together can both bind it, and the first to listen has it.
    """
    try:
        listener.listen(waiting)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise InputError(
            f"cannot listen on {host}:{port}: {error}; choose another with --host and --port"
        ) from error


__all__ = ["accept", "allow_connections", "listen"]
