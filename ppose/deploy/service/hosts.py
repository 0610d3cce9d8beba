"""Names under which clients may reach the service."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from ppose.utils.errors import PposeError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class HostPatterns:
    """Names that the Host of a request may have.

    A page of another site that has its own name resolve to this machine (DNS rebinding) names that
    site as the host.

    Args:
        patterns: names without ports, `*.example.com` for all below example.com, `*` for all.

    Raises:
        PposeError: an invalid pattern.
    """

    def __init__(self, patterns: Sequence[str]):
        self.patterns = tuple(pattern.lower().strip("[]") for pattern in patterns)
        for pattern in self.patterns:
            name = pattern.removeprefix("*.")
            if pattern != "*" and (not name or set(name) & set("*/ ") or "://" in pattern):
                raise PposeError(
                    f"allowed_hosts: '{pattern}' is not a host; expected a name without a port "
                    "such as pose.example.com, *.example.com, or * for all"
                )

    def __contains__(self, host: str) -> bool:
        """Whether the value of a Host header, with or without a port, fits."""
        if "*" in self.patterns:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        name = name.removesuffix(".")
        return any(
            name.endswith(pattern[1:]) if pattern.startswith("*") else name == pattern
            for pattern in self.patterns
        )


def default_hosts(address: str) -> tuple[str, ...]:
    """Names of this machine if it alone reaches the address, else all names.

    Whoever listens on a network is known there by names that only the operator knows.
    """
    return _LOOPBACK if _is_loopback(address) else ("*",)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
