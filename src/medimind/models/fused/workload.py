"""What is trained, as far as memory is concerned."""

from __future__ import annotations

from dataclasses import dataclass

from medimind.kernels.attention.footprint import Card, Heads
from medimind.models.architecture import PROJECTIONS, Architecture

_MULTIPROCESSORS_PER_GIB = 7
_MOST_MULTIPROCESSORS = 170


def cards_of_size(card_bytes: int, *, float16: bool = False) -> tuple[Card, ...]:
    """What a card of which only the memory is known may be.

    Any since Ampere; with fp16 a Turing card too, as these have no bf16. It is taken to have 7
    multiprocessors a GiB, and 170 at most: no card of 8 GiB and more that we know of has more (an
    RTX 3080 of 10 GiB has 68, an RTX 4090 of 24 GiB 128, an H100 132, an RTX 5090 170).

    Args:
        card_bytes: Its memory.
        float16: Whether training computes in fp16.
    """
    multiprocessors = -(-card_bytes * _MULTIPROCESSORS_PER_GIB // (1 << 30))
    multiprocessors = max(1, min(multiprocessors, _MOST_MULTIPROCESSORS))
    # Cards after Hopper choose among what these two take.
    capabilities = [(8, 0), (9, 0)] + [(7, 5)] * float16
    return tuple(Card(capability, multiprocessors) for capability in capabilities)


@dataclass(frozen=True, slots=True)
class Workload:
    """What is trained, as far as memory is concerned.

    Attributes:
        architecture: Shapes of the model.
        num_tokens: Tokens of a micro-batch.
        item: Bytes of a value of the compute dtype.
        rank: Of the adapters.
        targets: The projections that have one.
        nf4: Whether the layers' weights are held in 4 bits.
        double_quantized: Whether the scales are quantised too.
        int8_tables: Whether embedding and head are held in 8 bits.
        moment_bytes: Bytes of one moment of one value: 4, or 1 in 8 bits.
        cards: What the card may be. Attention is counted as the one that needs the most runs it.
        rows: A micro-batch has no more rows, as long as they fill it.
        longest: Tokens of the longest row; ``None``: one may fill the micro-batch.
        equal: Whether the rows of a micro-batch have one length and leave no padding, which decides
            about the attention; ``None``: some do, some do not.
    """

    architecture: Architecture
    num_tokens: int
    item: int
    rank: int = 16
    targets: tuple[str, ...] = PROJECTIONS
    nf4: bool = True
    double_quantized: bool = True
    int8_tables: bool = False
    moment_bytes: int = 4
    cards: tuple[Card, ...] = cards_of_size(80 << 30)
    rows: int = 8
    longest: int | None = None
    equal: bool | None = None

    @property
    def heads(self) -> Heads:
        """Shape of a layer's attention."""
        a = self.architecture
        return Heads(a.num_heads, a.num_kv_heads, a.head_dim, self.item)
