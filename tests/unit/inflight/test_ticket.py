"""A ticket hands a request over once, and tells who waits."""

from __future__ import annotations

from twigkit.inflight.request import Ended, InflightRequest
from twigkit.inflight.ticket import Ticket
from twigkit.specs.run import DrafterSpec


def cancel(ticket):
    ticket.cancelled = True


def test_events_go_to_the_listener_until_it_is_cancelled():
    taken, heard = [], []
    ticket = Ticket(2, take=taken.append, cancel=cancel)
    asked = InflightRequest({}, DrafterSpec(kind="plain"))
    ticket.tell(Ended(0, "stop"))  # nobody listens yet
    ticket.submit(asked, heard.append)
    assert taken == [ticket]
    assert ticket.request is asked
    ticket.tell(Ended(0, "stop"))
    ticket.cancel()
    ticket.tell(Ended(1, "stop"))
    assert heard == [Ended(0, "stop")]


def test_a_listener_that_fails_cancels_its_ticket():
    ticket = Ticket(1, take=lambda ticket: None, cancel=cancel)
    ticket.submit(InflightRequest({}, DrafterSpec(kind="plain")), lambda event: 1 / 0)
    ticket.tell(Ended(0, "stop"))
    assert ticket.cancelled
