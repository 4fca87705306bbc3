"""Which addresses webhooks may be sent to: public ones, and those in networks that the configuration names.

Twice: `refuse_url` looks at what a URL says, without resolving its name; `open_socket` at the address that is
really connected to, whatever the name resolves to by then.
"""

import errno
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from urllib.parse import SplitResult, urlsplit

from bus.errors import RefusedError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# What getaddrinfo returns: family, type, protocol, canonical name, address.
AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]

_PORTS = {"http": 80, "https": 443}
_FIRST_FREE_PORT = 1024
_ODD = re.compile(r"[\s\x00-\x1f\x7f\\]")
# Public by the registries, and yet inside: Azure's own services, and Oracle's.
_INSIDE = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24")))
_PLAIN = "Outside of the webhook_networks webhooks are sent over https only."
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ForbiddenAddressError(OSError):
    """No webhook is sent there."""


class Addresses:
    """The addresses that are allowed; `networks` are those beside the public ones, as CIDR."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = tuple(map(ipaddress.ip_network, networks))

    def refuse_url(self, url: str, param: str) -> None:
        """Raise `RefusedError`, which names `param`, when it can be seen at once that nothing may be sent to `url`."""
        parts = _split(url)
        if parts is None or parts.hostname is None:
            raise _refusal(f"{url!r} is not a URL.", param)
        if parts.scheme not in _PORTS:
            raise _refusal(f"The scheme of a webhook is https or http, not {parts.scheme!r}.", param)
        if parts.username is not None or parts.password is not None:
            raise _refusal("The URL of a webhook has no user and no password in it.", param)
        port = parts.port or _PORTS[parts.scheme]
        if not _is_port(port):
            raise _refusal(f"No webhook is sent to port {port}; only to 80, 443, and 1024 and above.", param)
        literal = _literal(parts.hostname)
        try:
            if literal is not None:
                self._check(literal, parts.scheme)
            elif parts.scheme == "http" and not self._networks:
                raise _forbidden(_PLAIN)
        except ForbiddenAddressError as error:
            raise _refusal(str(error.strerror), param) from error

    def open_socket(self, scheme: str) -> Callable[[AddressInfo], socket.socket]:
        """Return what opens the sockets of one request. It raises `ForbiddenAddressError`."""

        def opened(info: AddressInfo) -> socket.socket:
            family, kind, protocol, _, place = info
            host, port = str(place[0]), int(place[1])
            if not _is_port(port):
                raise _forbidden(f"No webhook is sent to port {port}.")
            self._check(ipaddress.ip_address(host), scheme)
            return socket.socket(family, kind, protocol)

        return opened

    def _check(self, address: Address, scheme: str) -> None:
        inner = _inner(address)
        if any(inner in network for network in self._networks):
            return
        if not _is_public(inner):
            raise _forbidden(f"{address} is not a public address, and in none of the webhook_networks.")
        if scheme != "https":
            raise _forbidden(_PLAIN)


def _split(url: str) -> SplitResult | None:
    if _ODD.search(url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port  # is read, and may be wrong, only now
    except ValueError:
        return None
    return parts


def _is_port(port: int) -> bool:
    return port in _PORTS.values() or port >= _FIRST_FREE_PORT


def _literal(host: str) -> Address | None:
    """Return the address that `host` is without asking anybody: literally, as 127.1 or 0x7f000001, or localhost."""
    host = host.rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _inner(address: Address) -> Address:
    """Return the IPv4 address inside an IPv6 address that is only a way to it, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_public(address: Address) -> bool:
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in _INSIDE)


def _forbidden(message: str) -> ForbiddenAddressError:
    return ForbiddenAddressError(errno.EACCES, message)


def _refusal(message: str, param: str) -> RefusedError:
    return RefusedError("invalid_request", message, param=param)
