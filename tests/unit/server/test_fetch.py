"""Pictures come from allowed hosts at public addresses, and from nowhere else."""

from __future__ import annotations

import pytest

from tests.support.https_host import PUBLIC, Host, trusting
from twigkit.errors import InputError
from twigkit.server.fetch import Fetcher, is_public, resolve

ALLOWED = ("Pictures.example", "other.example")
URL = "https://pictures.example/a.png"


@pytest.fixture
def host():
    with Host() as host:
        host.pages["/a.png"] = (200, {}, b"a picture")
        yield host


def fetcher(host, names=None, **limits):
    """A fetcher for which every name resolves to what ``names`` says, in turn."""
    answers = {name: iter(found) for name, found in (names or {}).items()}

    def resolved(name, port):
        return next(answers[name]) if name in answers else [PUBLIC]

    options = {"most_bytes": 1000, "seconds": 10.0, **limits}
    return Fetcher(ALLOWED, resolve=resolved, dial=host.dial, ssl_context=trusting(), **options)


def test_a_picture_of_an_allowed_host_is_fetched(host):
    assert fetcher(host).get(URL) == b"a picture"
    assert fetcher(host).get("https://PICTURES.example:443/a.png") == b"a picture"
    assert host.dialled == [PUBLIC, PUBLIC]
    assert host.asked == ["pictures.example/a.png"] * 2


@pytest.mark.parametrize(
    "url",
    [
        "http://pictures.example/a.png",
        "https://elsewhere.example/a.png",
        "https://pictures.example.elsewhere.example/a.png",
        "https://pictures.example@elsewhere.example/a.png",
        "https://user:word@pictures.example/a.png",
        "https://elsewhere.example#@pictures.example/",
        "https://elsewhere.example\\@pictures.example/",
        "https://pictures.example:8443/a.png",
        "https://pictures.example:x/a.png",
        "https://[::1/a.png",
        "https://127.0.0.1/a.png",
        "file:///etc/passwd",
        "ftp://pictures.example/a.png",
        "//pictures.example/a.png",
        "a.png",
        "",
    ],
)
def test_other_urls_are_refused_before_any_connection(host, url):
    with pytest.raises(InputError):
        fetcher(host).get(url)
    assert host.dialled == []


PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
    "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_never_connected_to(host, address):
    assert not is_public(address)
    for found in ([address], [PUBLIC, address]):
        with pytest.raises(InputError, match="private address"):
            fetcher(host, {"pictures.example": [found]}).get(URL)
    assert host.dialled == []


def test_public_addresses_are_public():
    for address in (PUBLIC, "1.1.1.1", "2606:2800:220:1:248:1893:25c8:1946"):
        assert is_public(address)


def test_the_names_of_this_machine_are_private(host):
    assert not all(map(is_public, resolve("localhost", 443)))
    own = Fetcher(["localhost"], most_bytes=10, seconds=5.0, ssl_context=trusting())
    with pytest.raises(InputError, match="private address"):
        own.get("https://localhost/a.png")
    assert host.asked == []


def test_a_name_that_changes_its_address_gains_nothing(host):
    rebinding = {"pictures.example": [[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]]}
    assert fetcher(host, rebinding).get(URL) == b"a picture"  # resolved once, and that is dialled
    assert host.dialled == [PUBLIC]
    host.pages["/again"] = (302, {"Location": "/a.png"}, b"")
    with pytest.raises(InputError, match="private address"):  # the second hop is checked anew
        fetcher(host, rebinding).get("https://pictures.example/again")
    assert host.dialled == [PUBLIC, PUBLIC]


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("https://elsewhere.example/a.png", "does not fetch from 'elsewhere.example'"),
        ("http://pictures.example/a.png", "begins with https"),
        ("https://127.0.0.1/a.png", "does not fetch from '127.0.0.1'"),
        ("https://other.example/a.png", "private address"),
        ("file:///etc/passwd", "begins with https"),
        ("/redirects", "redirects more than 3 times"),
        ("https://\xff.example/", "cannot be fetched"),
    ],
)
def test_redirects_are_checked_like_the_first_url(host, location, told):
    host.pages["/redirects"] = (307, {"Location": location}, b"")
    own = fetcher(host, {"other.example": [["10.0.0.1"]]})
    with pytest.raises(InputError, match=told):
        own.get("https://pictures.example/redirects")
    assert set(host.dialled) == {PUBLIC}
    assert {asked.partition("/")[0] for asked in host.asked} == {"pictures.example"}


def test_an_allowed_redirect_is_followed(host):
    host.pages["/moved"] = (301, {"Location": "https://other.example/a.png"}, b"")
    assert fetcher(host).get("https://pictures.example/moved") == b"a picture"
    assert host.asked == ["pictures.example/moved", "other.example/a.png"]


def test_limits_end_a_fetch(host):
    host.pages["/large"] = (200, {}, b"x" * 2000)
    host.pages["/slow"] = (200, {}, [b"x"] * 20)
    with pytest.raises(InputError, match="more than 1,000 bytes"):
        fetcher(host).get("https://pictures.example/large")
    with pytest.raises(InputError, match=r"took more than 0\.5 s"):
        fetcher(host, seconds=0.5).get("https://pictures.example/slow")
    host.pages["/dripping"], host.drips["/dripping"] = (404, {}, b""), b"X-Header: words\r\n"
    with pytest.raises(InputError, match=r"took more than 0\.5 s"):
        fetcher(host, seconds=0.5).get("https://pictures.example/dripping")
    with pytest.raises(InputError, match="answers 404"):
        fetcher(host).get("https://pictures.example/none")


def test_a_certificate_of_another_name_is_refused(host):
    own = Fetcher(
        ["third.example"],
        most_bytes=10,
        seconds=5.0,
        resolve=lambda *_: [PUBLIC],
        dial=host.dial,
        ssl_context=trusting(),
    )
    with pytest.raises(InputError, match="cannot be fetched"):
        own.get("https://third.example/a.png")


def test_a_name_that_cannot_be_resolved_is_said_so(host):
    with pytest.raises(InputError, match="cannot be found"):
        fetcher(host, {"pictures.example": [[]]}).get(URL)
