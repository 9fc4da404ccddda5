r"""An exported file held against the model that was trained, through the program that will run it.

At places of the held-out cases' own text, both are asked for the next token:

```
KL(trained || file) = sum over tokens of p * log(p / q)     nats; 0 where they are the same
agreement           = share of places where both find the same token likeliest
```
llama.cpp names the likeliest ``MOST`` tokens; the others are taken together as one, so the KL is a
lower bound of the whole one, and close to it: together they have hardly any probability.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medimind.engines.engine import Variant
from medimind.engines.gguf_engine import GgufEngine
from medimind.models.load import Model
from medimind.prompts.prompt import Prompt

MOST = 1000
LONGEST = 384
_TINY = 1e-6

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Probe:
    """A text and the places in it where the next token is compared.

    Attributes:
        token_ids: The text.
        places: Lengths of the beginnings after which the next token is asked for, rising.
    """

    token_ids: tuple[int, ...]
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How close an exported file is to the model that was trained.

    Attributes:
        num_places: Places compared.
        kl_mean: Mean KL over them, nats.
        kl_p95: Its 95th percentile.
        agreement: Share of places with the same likeliest token.
        num_texts: Texts tokenised by both.
        num_same_ids: Those with the same ids.
        num_round_trips: Those that decode to what was encoded (in NFC, where the tokenizer
            normalises).
    """

    num_places: int
    kl_mean: float
    kl_p95: float
    agreement: float
    num_texts: int
    num_same_ids: int
    num_round_trips: int

    def problems(self, *, max_kl: float, min_agreement: float) -> list[str]:
        """Why the file cannot be called good; empty where it can."""
        found = []
        if self.num_same_ids < self.num_texts:
            found.append(
                f"{self.num_texts - self.num_same_ids} of {self.num_texts} texts get other tokens"
            )
        if self.num_round_trips < self.num_texts:
            lost = self.num_texts - self.num_round_trips
            found.append(f"{lost} of {self.num_texts} texts do not come back from their tokens")
        if not self.kl_mean <= max_kl:
            found.append(f"KL {self.kl_mean:.4f} is above {max_kl:g}")
        if not self.agreement >= min_agreement:
            found.append(f"agreement {self.agreement:.1%} is below {min_agreement:.1%}")
        return found


def make_probes(prompts: Sequence[Prompt], *, most_prompts: int, places_each: int) -> list[Probe]:
    """Places spread over the outputs of the first cases, of at most `LONGEST` tokens each."""
    probes = []
    for prompt in prompts[:most_prompts]:
        end = min(len(prompt.token_ids_S), LONGEST)
        start = min(prompt.prompt_length, end - 1)
        places = np.unique(np.linspace(start, end - 1, num=places_each).round().astype(int))
        ids = tuple(int(token_id) for token_id in prompt.token_ids_S[:end])
        probes.append(Probe(ids, tuple(int(place) for place in places if place > 0)))
    return probes


@torch.no_grad()
def reference_logprobs(model: Model, probes: Sequence[Probe]) -> list[NDArray[np.float32]]:
    """Log-probabilities (places, V) of the model at each probe's places, adapter as it is set."""
    found = []
    for probe in probes:
        ids_T = torch.tensor(probe.token_ids[: probe.places[-1]], device=model.device)
        hidden_TD = model.decoder(
            ids_T,
            torch.arange(len(ids_T), device=model.device),
            cu_seqlens=[0, len(ids_T)],
            max_seqlen=len(ids_T),
        )
        last_P = torch.tensor(probe.places, device=model.device) - 1
        logits_PV = model.decoder.logits(hidden_TD[last_P])
        found.append(torch.log_softmax(logits_PV, dim=-1).cpu().numpy())
    return found


def compare_with_reference(
    engine: GgufEngine,
    probes: Sequence[Probe],
    references: Sequence[NDArray[np.float32]],
    *,
    texts: Sequence[str],
    variant: Variant = "base",
    progress: Progress | None = None,
) -> Fidelity:
    """What the file behind an engine gives, against what the trained model gave.

    Args:
        engine: The file.
        probes: From `make_probes`.
        references: From `reference_logprobs`, of the same probes.
        texts: Rendered prompts, to be tokenised by both.
        variant: ``tuned`` switches the engine's adapter on.
        progress: Called with places done and places altogether.

    Raises:
        EngineError: If llama.cpp refuses a prompt.
    """
    kls, same = [], []
    total = sum(len(probe.places) for probe in probes)
    for probe, reference_PV in zip(probes, references, strict=True):
        for place, reference_V in zip(probe.places, reference_PV, strict=True):
            found = engine.next_logprobs(probe.token_ids[:place], most=MOST, variant=variant)
            kls.append(kl_divergence(reference_V, found))
            same.append(int(reference_V.argmax()) == next(iter(found)))
            if progress is not None:
                progress(len(kls), total)
    tokenizer = engine.tokenizer
    ids = [tokenizer.encode(text) for text in texts]
    return Fidelity(
        num_places=total,
        kl_mean=float(np.mean(kls)),
        kl_p95=float(np.quantile(kls, 0.95)),
        agreement=float(np.mean(same)),
        num_texts=len(texts),
        num_same_ids=sum(engine.tokenize(text) == own for text, own in zip(texts, ids)),
        num_round_trips=sum(
            tokenizer.decode(own) in (text, unicodedata.normalize("NFC", text))
            for text, own in zip(texts, ids)
        ),
    )


def kl_divergence(reference_V: NDArray[np.float32], found: Mapping[int, float]) -> float:
    """KL(reference || found) in nats, the tokens that ``found`` does not name taken as one.

    Args:
        reference_V: Log-probability of every token.
        found: Log-probabilities by token id.
    """
    ids = np.fromiter(found, dtype=np.int64)
    logq = np.fromiter(found.values(), dtype=np.float64)
    logp = reference_V[ids].astype(np.float64)
    p = np.exp(logp)
    rest_p, rest_q = max(1 - p.sum(), _TINY), max(1 - np.exp(logq).sum(), _TINY)
    return float(np.sum(p * (logp - logq)) + rest_p * np.log(rest_p / rest_q))
