"""``python -m medimind``."""

from medimind.cli.main import entry

entry()
