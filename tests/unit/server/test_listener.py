"""The server's socket."""

from __future__ import annotations

import pytest

from twigkit.errors import InputError
from twigkit.server.listener import accept, listen


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


@pytest.mark.parametrize(("host", "port"), [("no such host", 80), ("127.0.0.1", 70000), ("", -1)])
def test_an_address_that_cannot_be_used_is_said_so(host, port):
    with pytest.raises(InputError, match="cannot listen on"):
        listen(host, port)
