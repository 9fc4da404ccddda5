"""When an exported file may be called good."""

from __future__ import annotations

from pydantic import Field

from medimind.config.section import Section


class ExportConfig(Section):
    """How exported files are held against the trained model.

    Attributes:
        verify_cases: Held-out cases whose text is compared.
        verify_places: Places compared in each.
        max_kl: Largest mean KL divergence from the trained model, nats.
        min_agreement: Smallest share of places with the same likeliest token.
        calibration_cases: Training cases that tell the quantisers which columns matter; 0 for none.
        data_license: Licence of the training data, for the model card.
    """

    verify_cases: int = Field(default=8, ge=1)
    verify_places: int = Field(default=16, ge=1)
    max_kl: float = Field(default=0.1, gt=0)
    min_agreement: float = Field(default=0.85, ge=0, le=1)
    calibration_cases: int = Field(default=0, ge=0)
    data_license: str | None = Field(default=None, max_length=200)
