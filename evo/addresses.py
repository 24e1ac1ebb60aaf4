"""Addresses of stores and servers, and the secrets that some of them carry."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

HIDDEN = "***"
_SECRET = re.compile(r"passw|pwd|token|secret|api_?key|access_?key", re.IGNORECASE)


def secrets_of(address: str) -> tuple[str, ...]:
    """Passwords and tokens in an address, as they are written and as they are meant, the longest first.

    These are the password before the host, a name without password in front of a web server, and values of the query whose
    key says that they are one.
    """
    parts = urlsplit(address)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    found = [password or (user if parts.scheme in ("http", "https") else "")]
    for name, value in parse_qsl(parts.query):
        if _SECRET.search(name):
            found += [value, *re.findall(rf"{re.escape(name)}=([^&]*)", parts.query)]
    return tuple(sorted({*found, *map(unquote, found)} - {""}, key=len, reverse=True))


def without_secrets(text: str, address: str) -> str:
    """A text that may repeat an address, with what must not be told of it hidden."""
    for secret in secrets_of(address):
        text = text.replace(secret, HIDDEN)
    return text
