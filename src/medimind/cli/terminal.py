"""The consoles that commands print to."""

from __future__ import annotations

from rich.console import Console

# Without emoji: else the ":AB:" of a certificate's fingerprint becomes a picture.
console = Console(highlight=False, soft_wrap=True, emoji=False)
progress_console = Console(stderr=True, highlight=False, emoji=False)
