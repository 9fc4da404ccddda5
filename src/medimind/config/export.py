"""What a run writes for other programs, and when such a file may be called good."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medimind.config.section import Section


class ExportConfig(Section):
    """What a run writes for other programs, and how it is held against the trained model.

    Attributes:
        to: Written at the end of a run. ``gguf-adapter``: the adapter with its base model, so that
            a phone can switch it off and on; ``gguf``: the merged model; ``None``: nothing.
        quantizations: GGUF types of these models, such as ``q8_0`` and ``q4_k_m``.
        verify_cases: Held-out cases whose text is compared.
        verify_places: Places compared in each.
        max_kl: Largest mean KL divergence from the trained model, nats.
        min_agreement: Smallest share of places with the same likeliest token.
        calibration_cases: Training cases that tell the quantisers which columns matter; 0 for none.
        data_license: Licence of the training data, for the model card.
    """

    to: Literal["gguf", "gguf-adapter"] | None = None
    quantizations: tuple[str, ...] = Field(default=("q8_0",), min_length=1)
    verify_cases: int = Field(default=8, ge=1)
    verify_places: int = Field(default=16, ge=1)
    max_kl: float = Field(default=0.1, gt=0)
    min_agreement: float = Field(default=0.85, ge=0, le=1)
    calibration_cases: int = Field(default=0, ge=0)
    data_license: str | None = Field(default=None, max_length=200)
