"""Which extra of medimind brings which packages."""

from __future__ import annotations

EXTRAS = {
    "data": ("datasets", "pyarrow"),
    "wandb": ("wandb",),
    "tensorboard": ("tensorboard",),
    "local": ("xllamacpp",),
    "llama-cpp-python": ("llama_cpp",),
    "serve": (
        "fastapi",
        "starlette",
        "uvicorn",
        "h11",
        "prometheus_client",
        "cryptography",
        "segno",
        "psutil",
    ),
    "endpoint": ("httpx",),
    "adamw-8bit": ("bitsandbytes",),
    "hopper": ("flash_attn",),
    "lm-eval": ("lm_eval",),
    "forecast": (
        "sklearn",
        "scipy",
        "statsmodels",
        "gpboost",
        "lifelines",
        "crepes",
        "bokeh",
        "pandas",
        "ucumvert",
        "fhir",
    ),
}
"""Extra -> packages as they are imported; the first tells whether the extra is installed."""


def extra_with(module: str | None) -> tuple[str, str] | None:
    """The package that a module is part of, and the extra that brings it; ``None`` for others."""
    package = (module or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return package, extra
    return None
