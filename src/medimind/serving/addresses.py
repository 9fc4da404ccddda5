"""Names and addresses under which this machine can be asked; nothing is looked up in a network."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import psutil

from medimind.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_VIRTUAL = (
    "docker", "br-", "veth", "virbr", "cni", "flannel", "cali", "podman", "lxc", "lxd",
    "tun", "tap", "wg", "utun", "tailscale", "zt", "vmnet", "vboxnet", "vethernet", "bridge",
    "awdl", "llw",
)  # fmt: skip
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
        # To Windows SO_REUSEADDR means that others may listen at the same port and take what comes.
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        option = socket.SO_REUSEADDR if exclusive is None else exclusive
        listener.setsockopt(socket.SOL_SOCKET, option, 1)
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
    """Addresses of this machine; first those that a phone in the same network can probably reach.

    These are private IPv4 ones of interfaces that are up and not made by containers or tunnels.
    """
    is_up = {name: stats.isup for name, stats in psutil.net_if_stats().items()}
    found = []
    for name, entries in psutil.net_if_addrs().items():
        is_virtual = name.lower().startswith(_VIRTUAL)
        for entry in entries:
            if entry.family in (socket.AF_INET, socket.AF_INET6):
                address = ipaddress.ip_address(entry.address.split("%")[0])
                if not address.is_loopback and not address.is_link_local:
                    rank = (
                        not is_up.get(name, True),
                        is_virtual,
                        address.version,
                        not address.is_private,
                    )
                    found.append((rank, address))
    return [str(address) for _, address in sorted(found, key=lambda one: one[0])]


def _lowered(names: Sequence[str]) -> list[str]:
    return [name.lower() for name in names]
