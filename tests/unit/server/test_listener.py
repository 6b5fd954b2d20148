"""The server's socket."""

from __future__ import annotations

import pytest

from twigkit.errors import InputError
from twigkit.server.listener import accept, allow_connections, listen


def test_a_port_is_bound_at_once():
    with listen("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        assert port > 0
        listener.listen()
        with pytest.raises(InputError, match="choose another"):
            listen("127.0.0.1", port)


def test_of_two_servers_that_start_together_the_second_is_told():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with listen("127.0.0.1", port) as second:
            accept(first, 1)
            with pytest.raises(InputError, match=f"127.0.0.1:{port}.*choose another"):
                accept(second, 1)


def test_connections_are_not_limited_to_what_a_process_starts_with():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 1024:
        pytest.skip("this process may have no more open files")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        allow_connections()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert 512 < soft <= 65_536
        assert hard == before[1]
        allow_connections()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(("host", "port"), [("no such host", 80), ("127.0.0.1", 70000), ("", -1)])
def test_an_address_that_cannot_be_used_is_said_so(host, port):
    with pytest.raises(InputError, match="cannot listen on"):
        listen(host, port)
