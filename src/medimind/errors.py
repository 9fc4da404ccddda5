"""Every error a user can cause, in one tree.

```
MediMindError
├── ConfigError          a recipe or an override is wrong
├── DataError            rows, files or data sets of cases are wrong
├── PromptError          a template or tokenizer cannot render what was asked
├── PackingError         the label audit found rows that would teach nothing or be cut
├── CheckpointError      model weights are missing, damaged or of an unsupported kind
├── AdapterError         LoRA files are missing, damaged or of another model
├── TrainingError
│   ├── NonFiniteError   loss or gradient became NaN or infinite
│   └── ResumeError      no checkpoint can be resumed, or it belongs to another recipe
├── EvaluationError      an evaluation cannot be run, read or compared
├── ExportError          a model cannot be written in the format asked for
├── EngineError          what answers prompts cannot answer this one
└── MissingExtraError    an optional package is not installed, or cannot be loaded
```

The command line prints them without a traceback; a message says what happened, where, and how to
fix it.
"""

from __future__ import annotations


class MediMindError(Exception):
    """A mistake that the user can mend.

    Args:
        message: What happened, as a sentence without its full stop.
        where: The file, line, row or key it happened at, such as ``cases.jsonl:412``.
        fix: What to do about it, as a sentence.
    """

    def __init__(self, message: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.message = message
        self.where = where
        self.fix = fix
        super().__init__(message)

    def __str__(self) -> str:
        message = f"{self.where}: {self.message}" if self.where else self.message
        return " ".join(_sentence(text) for text in (message, self.fix) if text)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


class ConfigError(MediMindError):
    """A recipe or an override is wrong."""


class DataError(MediMindError):
    """Rows, files or data sets of cases are wrong."""


class PromptError(MediMindError):
    """A template or tokenizer cannot render what was asked."""


class PackingError(MediMindError):
    """The label audit found rows that would teach nothing or be cut."""


class CheckpointError(MediMindError):
    """Model weights are missing, damaged or of an unsupported kind."""


class AdapterError(MediMindError):
    """LoRA files are missing, damaged or of another model."""


class TrainingError(MediMindError):
    """A training run cannot go on."""


class NonFiniteError(TrainingError):
    """Loss or gradient became NaN or infinite."""


class ResumeError(TrainingError):
    """No checkpoint can be resumed, or it belongs to another recipe."""


class EvaluationError(MediMindError):
    """An evaluation cannot be run, read or compared."""


class ExportError(MediMindError):
    """A model cannot be written in the format asked for."""


class EngineError(MediMindError):
    """What answers prompts cannot answer this one."""


class MissingExtraError(MediMindError):
    """An optional package is not installed, or cannot be loaded.

    Args:
        package: The package that failed to import.
        extra: The extra of medimind that brings it.
        error: What its import raised, where that may be more than its absence: binaries can want
            a library that the system lacks.
    """

    def __init__(self, package: str, *, extra: str, error: Exception | None = None) -> None:
        if error is None or (isinstance(error, ModuleNotFoundError) and error.name == package):
            message = f"the package '{package}' is not installed"
            fix = f"Install it with: pip install 'medimind[{extra}]'"
        else:
            message = f"the package '{package}' is installed, but cannot be loaded ({error})"
            fix = "Install what it misses; libgomp.so.1 is in Debian's and Ubuntu's libgomp1"
        super().__init__(message, fix=fix)
        self.package = package
        self.extra = extra
