"""Passwords and tokens, kept out of everything that a person or another program may read."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

HIDDEN = "***"
SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "DATABRICKS_TOKEN", "PGPASSWORD")
URI_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "SESR_LAB_STORAGE")
LEAST_LETTERS = 4
"""A shorter secret is hidden where it stands in a URI only: elsewhere it would take ordinary words with it."""

_QUERY = re.compile(
    r"([?&;](?:[\w.-]*(?:passw|pwd|token|secret|credential|signature|api_?key|access_?key)[\w.-]*|sig)=)[^&;#\s'\"]*",
    re.IGNORECASE,
)
_USER_AND_PASSWORD = re.compile(r"(://[^\s:/@'\"]*):[^\s/'\"]*@")
_TOKEN_AS_USER = re.compile(r"(https?://)[^\s:/@'\"]+@", re.IGNORECASE)

_seen: set[str] = set()


def shown(uri: str) -> str:
    """The URI without its secrets, for messages; they are remembered, so that `hide` knows them by themselves too."""
    remember(uri)
    return hide(uri)


def remember(uri: str) -> None:
    """Makes `hide` hide what is secret in `uri` wherever it stands."""
    _seen.update(_forms(_telling(uri)))


def hide(text: str) -> str:
    """The text without the secrets of any URI in it, of the environment, and of the URIs that were remembered."""
    known = _seen | _forms(
        {os.environ.get(name, "") for name in SECRET_VARIABLES}.union(
            *(_telling(os.environ.get(name, "")) for name in URI_VARIABLES)
        )
    )
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _USER_AND_PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    text = _TOKEN_AS_USER.sub(rf"\1{HIDDEN}@", text)
    return _QUERY.sub(rf"\1{HIDDEN}", text)


def without_credentials(uri: str) -> str:
    """What is left of a URI when whoever opens it is left out: the same for every user of one store."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority, slash, path = place.partition("/")
    return f"{scheme.lower()}://{authority.rpartition('@')[2].lower()}{slash}{path}"


def _telling(uri: str) -> set[str]:
    """Secrets to hide in any text: one that is also the user's or the database's name would take those with it."""
    return {secret for secret in _secrets_in(uri) if uri.count(secret) == 1}


def _secrets_in(uri: str) -> set[str]:
    """The passwords and tokens in a URI, as they are written there."""
    found = {match.group().removeprefix(match.group(1)) for match in _QUERY.finditer(uri)}
    try:
        parts = urlsplit(uri)
        user, password = parts.username, parts.password
    except ValueError:  # not a URI at all
        return found
    if password:
        found.add(password)
    elif user and parts.scheme in ("http", "https"):
        found.add(user)
    if (odd := re.match(r"[\w+.-]+://[^\s:/@]*:(.*)@[^@]*$", uri)) is not None:  # a password with / or @ in it
        found.add(odd.group(1))
    return found


def _forms(secrets: set[str]) -> set[str]:
    """The secrets, percent-encoded and not."""
    every = set()
    for secret in secrets:
        plain = unquote(secret)
        every |= {secret, plain, quote(plain, safe=""), quote_plus(plain), unquote_plus(secret)}
    return {secret for secret in every if len(secret) >= LEAST_LETTERS}
