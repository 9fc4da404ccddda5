"""Names and addresses under which this machine can be asked; nothing is looked up in a network."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import psutil

from medimind.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_ANY = ("0.0.0.0", "::")


def own_hosts(host: str, *, more: Sequence[str] = ()) -> list[str]:
    """Every name that a server bound to ``host`` answers to, the best for a phone first.

    Args:
        host: What it is bound to.
        more: Names that the user gives, such as that of a proxy.
    """
    if host in LOOPBACK:
        return list(dict.fromkeys([*_lowered(more), *LOOPBACK]))
    if host not in _ANY:
        return list(dict.fromkeys([*_lowered(more), host.lower(), *LOOPBACK]))
    name = socket.gethostname().lower()
    names = [name, f"{name.split('.')[0]}.local"]
    return list(dict.fromkeys([*_lowered(more), *_interfaces(), *names, *LOOPBACK]))


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: If the address cannot be taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"the address cannot be taken ({error.strerror or error})",
            where=f"{host}:{port}",
            fix="Choose another with --port",
        ) from None
    listener.setblocking(False)
    return listener


def _interfaces() -> list[str]:
    """Addresses of this machine, private IPv4 ones first: a phone in the same network has such."""
    found = []
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family in (socket.AF_INET, socket.AF_INET6):
                address = ipaddress.ip_address(entry.address.split("%")[0])
                if not address.is_loopback and not address.is_link_local:
                    found.append(address)
    found.sort(key=lambda one: (one.version, not one.is_private))
    return [str(one) for one in found]


def _lowered(names: Sequence[str]) -> list[str]:
    return [name.lower() for name in names]
