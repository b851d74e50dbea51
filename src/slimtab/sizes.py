"""Bytes as people write them: ``"10%"`` of the full table, ``"4MB"``, or a plain number."""

from __future__ import annotations

import re
from dataclasses import dataclass

from slimtab.errors import SlimtabError

# Decimal units for KB/MB/GB, binary ones only when spelled KiB/MiB/GiB, as the SI standard has it.
_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*")
_SHARE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*")


def parse_bytes(text: str | int) -> int:
    """Turn ``"2GB"``, ``"64KiB"`` or ``"1000"`` into bytes.

    Raises:
        SlimtabError: when the text is not a size.
    """
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text)
    if match is None or match.group(2).lower() not in _UNITS:
        raise SlimtabError(
            f"'{text}' is not a size; write bytes, or a number with KB, MB, GB, KiB, MiB or GiB"
        )
    return int(float(match.group(1)) * _UNITS[match.group(2).lower()])


def format_bytes(nbytes: float) -> str:
    """Write bytes for people, in decimal units: ``format_bytes(4_200_000) == "4.2 MB"``."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(nbytes) < 999.5:  # above, three digits would round to 1000 of the unit
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


@dataclass(frozen=True)
class Budget:
    """A limit on serving bytes: a share of the full table, or a size.

    Exactly one of the two fields is set; build it with :meth:`parse`.
    """

    share: float | None = None
    nbytes: int | None = None

    @classmethod
    def parse(cls, text: str | int) -> Budget:
        """Read ``"10%"``, ``"4MB"`` or a number of bytes.

        Raises:
            SlimtabError: when it is neither, or not above zero.
        """
        match = _SHARE.fullmatch(text) if isinstance(text, str) else None
        try:
            budget = cls(share=float(match.group(1)) / 100) if match else cls(nbytes=parse_bytes(text))
        except SlimtabError as error:
            raise SlimtabError(f"budget '{text}' is neither a share like 10% nor a size like 4MB") from error
        if (budget.share or budget.nbytes or 0) <= 0:
            raise SlimtabError(f"budget '{text}' leaves no bytes for the tables; give more than zero")
        return budget

    def resolve(self, full_bytes: int) -> int:
        """Return the budget in bytes, given the bytes of the full table."""
        if self.nbytes is not None:
            return self.nbytes
        assert self.share is not None
        # The epsilon keeps 10 % of 1000 at 100 when 0.1 has no exact binary form.
        return int(self.share * full_bytes + 1e-6)
