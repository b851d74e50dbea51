"""A few elements of 32 bits at a time, in one register: what rows are copied and added up with.

LLVM finds such vectors in plain loops as well, but must ask first whether arrays overlap, and with rows as
short as these that takes longer than the work. All arrays are flat.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from slimtab.kernels.intrinsics import address_of

_INT = ir.IntType(32)
_FOUR, _FLOATS = ir.VectorType(_INT, 4), ir.VectorType(ir.FloatType(), 4)


@intrinsic
def copy4(typing, out, place, values, start):
    """Copy four elements of 32 bits to ``out[place:]`` from ``values[start:]``, as one."""

    def generate(builder: Any, four: Any, old: Any) -> Any:
        return four

    return _four(generate, out, place, values, start)


@intrinsic
def copy4_kept(typing, out, place, values, start, kept):
    """Copy as :func:`copy4` does, but zeros for all but the first ``kept`` int32 of them."""

    def generate(builder: Any, four: Any, old: Any, kept: Any) -> Any:
        there = builder.icmp_signed("<", ir.Constant(_FOUR, [0, 1, 2, 3]), _fill(builder, kept))
        return builder.select(there, four, ir.Constant(_FOUR, [0] * 4))

    return _four(generate, out, place, values, start, types.int32)


@intrinsic
def copy4_signed(typing, out, place, values, start, signs):
    """Copy as :func:`copy4` does, each negated where its bit of ``signs`` uint32 is 1, highest first."""

    def generate(builder: Any, four: Any, old: Any, signs: Any) -> Any:
        each = builder.shl(_fill(builder, signs), ir.Constant(_FOUR, [0, 1, 2, 3]))
        return builder.xor(four, builder.and_(each, ir.Constant(_FOUR, [1 << 31] * 4)))

    return _four(generate, out, place, values, start, types.uint32)


@intrinsic
def copy4_scaled(typing, out, place, values, start, factor, shift):
    """Copy four floats, each times ``factor`` and plus ``shift``, both float32."""

    def generate(builder: Any, four: Any, old: Any, factor: Any, shift: Any) -> Any:
        scaled = builder.fmul(builder.bitcast(four, _FLOATS), _fill(builder, factor))
        return builder.bitcast(builder.fadd(scaled, _fill(builder, shift)), _FOUR)

    return _four(generate, out, place, values, start, types.float32, types.float32)


@intrinsic
def copy4_integers(typing, out, place, numbers, start, factor):
    """Copy four signed integers of any size as floats, each times ``factor`` float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = address_of(context, builder, signature, args, 2)
        kind = ir.VectorType(ir.IntType(signature.args[2].dtype.bitwidth), 4)
        four = builder.load(builder.bitcast(source, kind.as_pointer()), align=1, typ=kind)
        scaled = builder.fmul(builder.sitofp(four, _FLOATS), _fill(builder, args[4]))
        target = builder.bitcast(address_of(context, builder, signature, args), _FLOATS.as_pointer())
        builder.store(scaled, target, align=4)
        return context.get_dummy_value()

    return types.void(out, types.intp, numbers, types.intp, types.float32), generate


def _codes(bits: int) -> Any:
    packed = ir.IntType(4 * bits)

    def copy4_of(typing, out, place, codes, start, factor, shift):
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source = builder.bitcast(address_of(context, builder, signature, args, 2), packed.as_pointer())
            word = builder.load(source, align=1, typ=packed)
            spread = _fill(builder, word if bits == 8 else builder.zext(word, _INT))
            moved = builder.lshr(spread, ir.Constant(_FOUR, [bits * lane for lane in range(4)]))
            four = builder.uitofp(builder.and_(moved, ir.Constant(_FOUR, [(1 << bits) - 1] * 4)), _FLOATS)
            target = builder.bitcast(address_of(context, builder, signature, args), _FLOATS.as_pointer())
            total = _multiply_add(builder, four, _fill(builder, args[4]), _fill(builder, args[5]))
            builder.store(total, target, align=4)
            return context.get_dummy_value()

        kinds = out, types.intp, codes, types.intp, types.float32, types.float32
        return types.void(*kinds), generate

    return intrinsic(copy4_of)


# Four codes of so many bits, from byte ``start`` of ``codes`` on, as floats times ``factor`` plus ``shift``.
copy4_of2, copy4_of4, copy4_of8 = _codes(2), _codes(4), _codes(8)


@intrinsic
def add4_scaled(typing, out, place, values, start, factor):
    """Add four floats to those of ``out``, each times ``factor`` float32, rounded once as torch does."""

    def generate(builder: Any, four: Any, old: Any, factor: Any) -> Any:
        terms = builder.bitcast(four, _FLOATS), _fill(builder, factor), builder.bitcast(old, _FLOATS)
        return builder.bitcast(_multiply_add(builder, *terms), _FOUR)

    return _four(generate, out, place, values, start, types.float32)


def _sum(lanes: int) -> Any:
    kind, halves = ir.VectorType(ir.FloatType(), lanes), ir.VectorType(ir.HalfType(), lanes)

    def add_up(typing, out, place, values, starts, row, count, shift):
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = context.make_array(signature.args[3])(context, builder, args[3])
            width = cgutils.unpack_tuple(builder, array.shape)[1]
            stored = halves if signature.args[2].dtype == types.int16 else kind
            # Kept in a register: what is stored and read again for each row waits for it every time.
            total = cgutils.alloca_once_value(builder, ir.Constant(kind, [0.0] * lanes))
            with cgutils.for_range(builder, args[5]) as loop:
                at = builder.add(builder.mul(args[4], width), loop.index)
                start = builder.add(builder.load(builder.gep(array.data, [at])), args[6])
                source = address_of(context, builder, signature, [*args[:3], start], 2)
                term = builder.load(builder.bitcast(source, stored.as_pointer()), align=2, typ=stored)
                if stored is halves:
                    term = builder.fpext(term, kind)
                builder.store(builder.fadd(builder.load(total), term), total)
            target = builder.bitcast(address_of(context, builder, signature, args), kind.as_pointer())
            builder.store(builder.load(total), target, align=4)
            return context.get_dummy_value()

        kinds = out, types.intp, values, starts, types.intp, types.intp, types.intp
        return types.void(*kinds), generate

    return intrinsic(add_up)


# Sums of so many floats of ``values``, from each of ``starts[row, :count] + shift`` on, to ``out[place:]``.
# Floats of half precision are handed in as int16.
sum4, sum16 = _sum(4), _sum(16)


@intrinsic
def multiply4(typing, out, place, values, start):
    """Multiply four floats of ``out`` by four others."""

    def generate(builder: Any, four: Any, old: Any) -> Any:
        product = builder.fmul(builder.bitcast(old, _FLOATS), builder.bitcast(four, _FLOATS))
        return builder.bitcast(product, _FOUR)

    return _four(generate, out, place, values, start)


@intrinsic
def expand4(typing, out, place, values, start, bits):
    """Copy elements that follow one another to where one of the lowest ``bits`` uint64 is set, else zeros."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        there = builder.bitcast(builder.trunc(args[4], ir.IntType(4)), ir.VectorType(ir.IntType(1), 4))
        source = address_of(context, builder, signature, args, 2)
        kind = ir.FunctionType(_FOUR, [source.type, there.type, _FOUR])
        expand = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.expandload.v4i32")
        four = builder.call(expand, [source, there, ir.Constant(_FOUR, [0] * 4)])
        target = builder.bitcast(address_of(context, builder, signature, args), _FOUR.as_pointer())
        builder.store(four, target, align=4)
        return context.get_dummy_value()

    return types.void(out, types.intp, values, types.intp, types.uint64), generate


def _four(combine: Any, out: Any, place: Any, values: Any, start: Any, *more: Any) -> Any:
    """Return signature and code of what makes four elements of others, of old ones and of ``more``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target = (
            builder.bitcast(address_of(context, builder, signature, args, array), _FOUR.as_pointer())
            for array in (2, 0)
        )
        # At an element's own alignment.
        four, old = (builder.load(pointer, align=4, typ=_FOUR) for pointer in (source, target))
        builder.store(combine(builder, four, old, *args[4:]), target, align=4)
        return context.get_dummy_value()

    return types.void(out, types.intp, values, types.intp, *more), generate


def _multiply_add(builder: Any, four: Any, factors: Any, terms: Any) -> Any:
    """Return products plus ``terms``, rounded once."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v4f32")
    return builder.call(function, [four, factors, terms])


def _fill(builder: Any, value: Any) -> Any:
    """Return ``value`` four times."""
    four = ir.Constant(ir.VectorType(value.type, 4), ir.Undefined)
    for lane in range(4):
        four = builder.insert_element(four, value, _INT(lane))
    return four
