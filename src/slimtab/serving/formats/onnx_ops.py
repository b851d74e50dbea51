"""ONNX words for what torch's own exporter cannot translate: bits read as another type, shifts, sorts.

ONNX shifts unsigned numbers only, and has no cast that keeps bits. Its integers wrap as torch's do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset20 as op

_TYPES = {
    torch.uint8: (ir.DataType.UINT8, 8),
    torch.int32: (ir.DataType.INT32, 32),
    torch.int64: (ir.DataType.INT64, 64),
}
_BITS = {ir.DataType.BOOL: 8, ir.DataType.UINT8: 8, ir.DataType.INT32: 32, ir.DataType.INT64: 64}


def view_dtype(x: Any, dtype: int) -> Any:
    """``x.view(dtype)`` of contiguous integers: the last axis grows or shrinks, low bits first."""
    to = ir.DataType(dtype)
    have, want = _BITS[x.dtype], _BITS[to]
    if have > want:
        # [..., n, 1] shifted by each of [r] places, the last two axes then joined.
        places = op.Constant(value=ir.tensor([want * k for k in range(have // want)], ir.DataType.UINT64))
        words = op.Unsqueeze(op.Cast(x, to=ir.DataType.UINT64), op.Constant(value_ints=[-1]))
        low = op.BitwiseAnd(
            op.BitShift(words, places, direction="RIGHT"),
            op.Constant(value=ir.tensor([(1 << want) - 1], ir.DataType.UINT64)),
        )
        last = op.Constant(value_ints=[x.shape[-1] * (have // want)])
        shape = op.Concat(op.Shape(x, start=0, end=-1), last, axis=0)
        return op.Cast(op.Reshape(op.Cast(low, to=ir.DataType.INT64), shape), to=to)
    ratio = want // have
    last = op.Constant(value_ints=[x.shape[-1] // ratio, ratio])
    shape = op.Concat(op.Shape(x, start=0, end=-1), last, axis=0)
    parts = op.Reshape(op.Cast(x, to=ir.DataType.UINT64), shape)
    places = op.Constant(value=ir.tensor([have * k for k in range(ratio)], ir.DataType.UINT64))
    joined = op.BitShift(parts, places, direction="LEFT")
    while ratio > 1:  # in halves; ONNX Runtime sums int64 by way of floats, which lose the low bits
        ratio //= 2
        low, middle, high = (op.Constant(value_ints=[place]) for place in (0, ratio, 2 * ratio))
        axis = op.Constant(value_ints=[-1])
        joined = op.BitwiseOr(op.Slice(joined, low, middle, axis), op.Slice(joined, middle, high, axis))
    return op.Cast(op.Squeeze(joined, op.Constant(value_ints=[-1])), to=to)


def shift_left(x: Any, places: Any) -> Any:
    """``x << places`` of int64 or int32."""
    words, by = (op.Cast(each, to=ir.DataType.UINT64) for each in (x, places))
    return op.CastLike(op.BitShift(words, by, direction="LEFT"), x)


def shift_right(x: Any, places: Any) -> Any:
    """``x >> places`` of int64 or int32, which copies the sign: negative ones are turned over."""
    negative = op.Less(x, op.CastLike(op.Constant(value_int=0), x))
    words, by = op.Where(negative, op.BitwiseNot(x), x), op.Cast(places, to=ir.DataType.UINT64)
    moved = op.CastLike(op.BitShift(op.Cast(words, to=ir.DataType.UINT64), by, direction="RIGHT"), x)
    return op.Where(negative, op.BitwiseNot(moved), moved)


def search_sorted(ascending: Any, values: Any, out_int32: bool = False, right: bool = False) -> Any:
    """``torch.searchsorted`` of vectors: how many are smaller than each value (``right``: not larger)."""
    column = op.Unsqueeze(values, op.Constant(value_ints=[1]))
    before = op.LessOrEqual(ascending, column) if right else op.Less(ascending, column)
    return op.ReduceSum(op.Cast(before, to=ir.DataType.INT64), op.Constant(value_ints=[1]), keepdims=0)


def repeat_interleave(x: Any, repeats: Any, dim: int | None = None, output_size: Any = None) -> Any:
    """``torch.repeat_interleave`` of a vector; how long it gets is the sum of ``repeats``."""
    ends = op.CumSum(repeats, op.Constant(value_int=0))
    total = op.Gather(ends, op.Constant(value_int=-1))
    places = op.Range(op.Constant(value_int=0), total, op.Constant(value_int=1))
    return op.Gather(x, search_sorted(ends, places, right=True))


def sort_stable(x: Any, stable: bool = False, dim: int = -1, descending: bool = False) -> Any:
    """``torch.sort`` of a vector; of equal ones TopK takes the first first."""
    return op.TopK(x, op.Shape(x), axis=dim, largest=int(descending), sorted=1)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.view.dtype: view_dtype,
    torch.ops.aten.__lshift__.Tensor: shift_left,
    torch.ops.aten.__lshift__.Scalar: shift_left,
    torch.ops.aten.__rshift__.Tensor: shift_right,
    torch.ops.aten.bitwise_right_shift.Tensor: shift_right,
    torch.ops.aten.bitwise_right_shift.Tensor_Scalar: shift_right,
    torch.ops.aten.__rshift__.Scalar: shift_right,
    torch.ops.aten.searchsorted.Tensor: search_sorted,
    torch.ops.aten.repeat_interleave.self_Tensor: repeat_interleave,
    torch.ops.aten.sort.stable: sort_stable,
}
