"""Looking up 4-bit codes by shuffles, for Triton kernels on a card.

Lane ``n`` of a warp holds value ``n % 16`` of the table, and each lane asks the lane that its code
names: one instruction for a code. A look-up in memory costs two or three. A shuffle reads the
lowest 5 bits of the code only, and lanes 16-31 hold the table once more: nothing need be masked.

Each assembler text takes four bytes at once, as Triton hands them over in one register.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

TABLE: Any = tl.constexpr(
    """{
    .reg .b32 lane;
    .reg .b64 place;
    mov.u32 lane, %laneid;
    and.b32 lane, lane, 15;
    mul.wide.u32 place, lane, 4;
    add.s64 place, place, $1;
    ld.global.nc.b32 $0, [place];
    }"""
)
"""The lane's value ($0) of the table at an address ($1)."""


def _lookup(packed: str, table: list[str], *, first: list[str], second: list[str]) -> list[str]:
    """Values of the high halves of four bytes, then of the low ones."""
    lines = []
    for nibble in range(8):
        byte, is_first = divmod(nibble, 2)
        source = packed if nibble == 0 else "code"
        if nibble:
            lines.append(f"shr.u32 code, {packed}, {4 * nibble};")
        target = first[byte] if is_first else second[byte]
        lines.append(f"shfl.sync.idx.b32 {target}, {table[byte]}, {source}, 31, 0xffffffff;")
    return lines


def _rounded(kind: str) -> Any:
    """Four bytes ($4), the table ($5-$8) and scales ($9-$12) to weights rounded to 16 bits."""
    first, second = ([f"value{4 * half + i}" for i in range(4)] for half in range(2))
    lines = _lookup("$4", [f"${5 + i}" for i in range(4)], first=first, second=second)
    lines += [f"mul.rn.f32 value{i}, value{i}, ${9 + i % 4};" for i in range(8)]
    for index in range(4):
        low, high = f"value{2 * index}", f"value{2 * index + 1}"
        lines.append(f"cvt.rn.{kind}.f32 ${index}, {high}, {low};")
    return tl.constexpr("\n".join(["{", ".reg .b32 code, value<8>;", *lines, "}"]))


def _codes() -> Any:
    """Four bytes ($8) and the table ($9-$12) to the values of their codes, fp32."""
    first, second = ([f"${4 * half + i}" for i in range(4)] for half in range(2))
    lines = _lookup("$8", [f"${9 + i}" for i in range(4)], first=first, second=second)
    return tl.constexpr("\n".join(["{", ".reg .b32 code;", *lines, "}"]))


TO_BF16 = _rounded("bf16x2")
TO_FP16 = _rounded("f16x2")
ROUNDED_REGISTERS: Any = tl.constexpr("=r,=r,=r,=r" + ",r" * 9)
TO_CODES = _codes()
# The outputs are written while inputs are still to be read: they need registers of their own.
CODES_REGISTERS: Any = tl.constexpr(",".join(["=&r"] * 8) + ",r" * 5)
