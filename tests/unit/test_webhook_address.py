"""Where webhooks may be sent to, and where not."""

import socket

import pytest

from actors.webhook_address import Addresses, ForbiddenAddressError
from bus.errors import RefusedError

# Refused as they stand, without resolving a name.
HOSTILE = (
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0177.0.0.1/",
    "https://127.0.0.1./",
    "https://localhost:8443/",
    "https://api.localhost/",
    "https://0.0.0.0/",
    "https://10.0.0.5/",
    "https://192.168.1.1/",
    "https://100.100.100.200/",
    "https://169.254.169.254/latest/meta-data/",
    "https://168.63.129.16/",
    "https://192.0.0.192/",
    "https://224.0.0.1/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:169.254.169.254]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[fe80::1%25eth0]/",
    "https://[fd00:ec2::254]/",
    "https://[ff02::1]/",
    "https://user:password@example.com/",
    "https://user@example.com/",
    "https://example.com\\@127.0.0.1/",
    "https://example.com/ \r\nHost: inside",
    "https://example.com:22/",
    "https://example.com:99999/",
    "http://example.com/",
    "http://93.184.215.14/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/",
    "//example.com/",
    "https:///nowhere",
    "",
)


@pytest.mark.parametrize("url", HOSTILE)
def test_hostile_url_is_refused_by_the_field_it_stood_in(url: str) -> None:
    with pytest.raises(RefusedError) as refused:
        Addresses().refuse_url(url, "callback_url")

    assert (refused.value.code, refused.value.failure.param) == ("invalid_request", "callback_url")


@pytest.mark.parametrize("url", ["https://example.com/hook?x=1", "https://example.com:8443/", "https://93.184.215.14/"])
def test_public_url_is_let_pass_and_the_same_on_this_machine_is_not(url: str) -> None:
    Addresses().refuse_url(url, "url")
    with pytest.raises(RefusedError):
        Addresses().refuse_url(url.replace("example.com", "127.0.0.1").replace("93.184.215.14", "127.0.0.1"), "url")


def test_networks_of_the_configuration_are_let_pass_in_the_clear_and_no_others() -> None:
    addresses = Addresses(("192.168.7.0/24",))

    addresses.refuse_url("http://192.168.7.9:9000/", "url")
    addresses.refuse_url("http://tier2.lan/", "url")
    for url in ("http://192.168.8.9:9000/", "http://93.184.215.14/", "http://192.168.7.9:22/"):
        with pytest.raises(RefusedError):
            addresses.refuse_url(url, "url")


@pytest.mark.parametrize(
    ("family", "place"),
    [
        (socket.AF_INET, ("127.0.0.1", 443)),
        (socket.AF_INET, ("169.254.169.254", 443)),
        (socket.AF_INET, ("93.184.215.14", 25)),
        (socket.AF_INET6, ("::1", 443, 0, 0)),
        (socket.AF_INET6, ("::ffff:10.0.0.1", 443, 0, 0)),
        (socket.AF_INET6, ("fe80::1%1", 443, 0, 1)),
    ],
)
def test_socket_to_a_forbidden_address_is_not_opened_whatever_its_name_was(family: int, place: tuple[str, int]) -> None:
    open_socket = Addresses().open_socket("https")

    with pytest.raises(ForbiddenAddressError):
        open_socket((family, socket.SOCK_STREAM, 0, "", place))


def test_socket_in_the_clear_is_opened_only_in_the_networks() -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("93.184.215.14", 80))

    with pytest.raises(ForbiddenAddressError):
        Addresses().open_socket("http")(info)
    for scheme, addresses in (("https", Addresses()), ("http", Addresses(("93.184.215.0/24",)))):
        addresses.open_socket(scheme)(info).close()
