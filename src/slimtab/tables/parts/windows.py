"""Windows: contiguous elements read from any place of a long array, on no boundary in particular."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab import kernels
from slimtab.tables.parts.reading import translates_to_onnx
from slimtab.tables.rows.base import Rows


def read_windows(values: Tensor, starts: Tensor, width: int) -> Tensor:
    """Return [N, width]: the ``width`` elements of ``values`` [M] that follow each of ``starts`` [N] int64.

    ``starts`` lie in ``[0, M − width]``. The overlapping view has a row for every place, so this is a gather
    of rows, several times faster than one of single elements.
    """
    if translates_to_onnx():  # where all windows would be laid out side by side
        places = starts[:, None] + torch.arange(width, device=starts.device)
        return values.index_select(0, places.flatten()).view(-1, width)
    if kernels.ready(values, starts):
        from slimtab.kernels import windows as compiled

        return compiled.read_windows(values, starts, width)
    return F.embedding(starts, values.unfold(0, width, 1))


def read_row_windows(rows: Rows, starts: Tensor) -> Tensor:
    """Read windows as wide as a row from ``rows``, taken as one array; gradients reach the rows.

    A window lies in two neighbouring rows, whole or in part. Reading both costs twice the reads of an aligned
    window, and lets the array be trained as any rows are: only what a batch touches moves.

    Args:
        rows: R rows of w floats.
        starts: [N] int64 in ``[0, (R − 1) · w]``.

    Returns:
        [N, w].
    """
    if rows.width == 1:
        return rows(starts)  # type: ignore[no-any-return]
    first = starts // rows.width
    # A window that starts in the last row ends with it; what would be read after it is not used.
    both = torch.stack([first, (first + 1).clamp(max=rows.num_rows - 1)], dim=1)
    pairs: Tensor = rows(both.flatten()).view(-1, 2 * rows.width)
    inside = (starts - first * rows.width)[:, None] + torch.arange(rows.width, device=starts.device)
    return pairs.gather(1, inside)
