"""A case as token ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prompt:
    """One case rendered for training (``S`` tokens).

    Attributes:
        case_id: The case it was rendered from.
        token_ids_S: int32; BOS at most once, EOS last.
        is_target_S: bool; whether the token is learned. False over the prompt, True over the
            output from its first token to EOS.
        prompt_length: Tokens of the prompt; ``token_ids_S[:prompt_length]`` is what inference
            starts from.
        num_reasoning_targets: Target tokens of the reasoning.
        num_response_targets: Target tokens of the response, EOS included.
    """

    case_id: str
    token_ids_S: NDArray[np.int32]
    is_target_S: NDArray[np.bool_]
    prompt_length: int
    num_reasoning_targets: int
    num_response_targets: int
