"""Who may ask: tokens, made at the start or read from a file that only its owner may read."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medimind.errors import ConfigError

SHORTEST = 16
_LINE = re.compile(r"(?:(?P<name>[\w.@-]{1,64})\s+)?(?P<token>[A-Za-z0-9._~+/=-]+)")


@dataclass(frozen=True, slots=True)
class Access:
    """The tokens, of which only hashes are kept.

    Attributes:
        names: SHA-256 of a token -> whose it is.
    """

    names: Mapping[bytes, str]

    def who(self, token: str) -> str | None:
        """Whose token it is; ``None`` if it is nobody's. Takes as long for any token."""
        asked = _hash(token)
        found = None
        for known, name in self.names.items():
            if hmac.compare_digest(known, asked):
                found = name
        return found


def make_token() -> str:
    """A new token of 256 random bits."""
    return secrets.token_urlsafe(32)


def give_access(tokens: Mapping[str, str]) -> Access:
    """Access for ``{token: whose it is}``."""
    return Access({_hash(token): name for token, name in tokens.items()})


def read_tokens(path: Path) -> dict[str, str]:
    """``{token: name}`` of a file with a line ``NAME TOKEN`` for each person; made if missing.

    Raises:
        ConfigError: If it cannot be read or written, others may read it, or a line is no token.
    """
    try:
        if not path.exists():
            _write_private(path, f"owner {make_token()}\n")
        mode = path.stat().st_mode
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the token file cannot be used ({error})",
            where=str(path),
            fix="Choose another with --token-file",
        ) from None
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(
            "others on this machine may read the tokens",
            where=str(path),
            fix=f"Run: chmod 600 {path}",
        )
    tokens = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or len(match["token"]) < SHORTEST:
            raise ConfigError(
                f"this is no token of at least {SHORTEST} letters, digits or ._~+/=-",
                where=f"{path}:{number}",
                fix="Write a line 'NAME TOKEN' for each person",
            )
        tokens[match["token"]] = match["name"] or "owner"
    if not tokens:
        raise ConfigError("the file holds no token", where=str(path), fix="Write a line NAME TOKEN")
    return tokens


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
