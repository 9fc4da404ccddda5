"""The entry point: ``medimind COMMAND``. Commands are imported only when they are called."""

from __future__ import annotations

import codecs
import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from medimind import __version__
from medimind.cli.extras import extra_with
from medimind.cli.lazy_group import LazyGroup
from medimind.errors import ConfigError, MediMindError, MissingExtraError

# Threads that wait by spinning slow each other down many times over where other programs run:
# loading the 135M model beside four of them took 133 s, and 22 s with threads that sleep.
# OpenMP reads this when torch is imported, which is after this module.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

EXIT_USER_ERROR = 1
EXIT_USAGE = 2
EXIT_BUG = 70
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130
_EXIT_CODES = (
    "Exit codes: 0 done; 1 a mistake in data, files or the machine; 2 wrong usage or recipe; "
    "3 an exported file is not close enough to the trained model; 70 a bug of medimind's; "
    "75 stopped and saved, go on with --resume; 130 interrupted."
)
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""What a file system says that takes nothing: for the user to mend, wherever it comes up."""

COMMANDS = {
    "run": "The whole way: cases, training, before and after, report.",
    "data": "Look at cases: inspect, validate, split, stats.",
    "plan": "Say what a training step takes on a card.",
    "train": "Train the adapter of a recipe.",
    "evaluate": "Compare a run's model before and after, and write the report.",
    "compare": "Compare two or more files of results, paired.",
    "ask": "Ask one question; streamed, before and after side by side.",
    "chat": "Talk with a GGUF file on this machine, adapter on or off.",
    "serve": "Serve a GGUF file to phones and OpenAI clients.",
    "export": "Write the result for other tools: adapter, merged, GGUF, Ollama.",
    "push": "Send the result to the Hugging Face hub, with a model card.",
    "forecast": "Forecast how a disease goes on, from patients' own records.",
    "doctor": "Say what this machine can do.",
    "recipe": "List recipes, and show one with every setting resolved.",
}


@click.group(
    cls=LazyGroup,
    commands=COMMANDS,
    package="medimind.cli",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXIT_CODES,
)
@click.version_option(__version__, prog_name="medimind")
@click.option("-v", "--verbose", is_flag=True, help="Also print the library's log messages.")
def cli(verbose: bool) -> None:
    """Tune an open reasoning model on medical cases, and prove whether it got better.

    The shortest way: medimind run starter
    """
    logger = logging.getLogger("medimind")
    logger.setLevel(logging.INFO)
    for handler in [one for one in logger.handlers if isinstance(one, _StderrHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(_StderrHandler(logging.INFO if verbose else logging.WARNING))


class _StderrHandler(logging.Handler):
    """Prints what the library logs, such as ``warning: no revision is pinned``."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        click.echo(f"{record.levelname.lower()}: {record.getMessage()}", err=True)
        if record.exc_info:
            click.echo("".join(traceback.format_exception(*record.exc_info)), err=True, nl=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code, as ``medimind --help`` explains it."""
    try:
        code = cli.main(args=arguments, prog_name="medimind", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except MediMindError as error:
        click.echo(f"error: {error}", err=True)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_USER_ERROR
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (found := extra_with(error.name)):
            package, extra = found
            click.echo(f"error: {MissingExtraError(package, extra=extra)}", err=True)
            return EXIT_USER_ERROR
        if isinstance(error, OSError) and error.errno in _DISK:
            where = f"{error.filename}: " if error.filename else ""
            fix = "Make room, or write where you may; what was finished before is kept"
            click.echo(f"error: {where}{error.strerror}. {fix}.", err=True)
            return EXIT_USER_ERROR
        named = _unreadable(sys.argv[1:] if arguments is None else arguments)
        if named is not None:
            encoding = sys.getfilesystemencoding()
            fix = "Set PYTHONUTF8=1, or a locale in UTF-8 such as LC_ALL=C.UTF-8; or rename it"
            click.echo(f"error: {named} is no text in {encoding} ({error}). {fix}.", err=True)
            return EXIT_USER_ERROR
        logging.getLogger(__name__).exception("this is a bug of medimind's, please report it")
        return EXIT_BUG


def _unreadable(arguments: Sequence[str]) -> str | None:
    """The argument, or this folder's path, that is no text in the system's encoding."""
    try:
        here = str(Path.cwd())
    except OSError:  # it was removed
        here = ""
    for text in (*arguments, here):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            return ascii(text)
    return None


def _speak_utf8() -> None:
    """Let nothing that is said end in an error where the terminal's encoding cannot say it.

    Pipes and files get UTF-8, which is what we read too; a terminal shows a question mark.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            if stream.isatty():
                stream.reconfigure(errors="replace")
            else:
                stream.reconfigure(encoding="utf-8", errors="replace")


def entry() -> None:
    """Run the command line and exit with its code."""
    _speak_utf8()
    sys.exit(main())


if __name__ == "__main__":
    entry()
