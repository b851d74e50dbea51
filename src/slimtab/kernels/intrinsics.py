"""Machine instructions that numba has no function for: memory and bits."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE, _INT, _WORD = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def address_of(context: Any, builder: Any, signature: Any, args: Any, array: int = 0) -> Any:
    """Return, for code that is generated, where element ``args[array + 1]`` of ``args[array]`` lies."""
    kind = context.make_array(signature.args[array])
    return builder.gep(kind(context, builder, args[array]).data, [args[array + 1]])


def _prefetch(cache: int) -> Any:
    def begin(typing, array, index):
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.bitcast(address_of(context, builder, signature, args), _BYTE.as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [pointer.type, _INT, _INT, _INT])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(function, [pointer, _INT(0), _INT(4 - cache), _INT(1)])  # to read, of data
            return context.get_dummy_value()

        return types.void(array, types.intp), generate

    return intrinsic(begin)


# Begin to fetch the memory at ``array[index]``, wherever that is: into the nearest cache what is read soon,
# into the second one a block's, which the nearest does not hold.
prefetch, prefetch_block = _prefetch(1), _prefetch(2)


@intrinsic
def load_word(typing, array, index):
    """Return the eight bytes of ``array`` uint8 from ``index`` on, wherever that is, as uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = address_of(context, builder, signature, args)
        return builder.load(builder.bitcast(pointer, _WORD.as_pointer()), align=1, typ=_WORD)

    return types.uint64(array, types.intp), generate


@intrinsic
def count_ones(typing, word):
    """Return how many bits of ``word`` uint64 are set, as int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


@intrinsic
def half_at(typing, array, index):
    """Return ``array[index]`` as float32; ``array`` is int16, the bits of half-precision floats."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = builder.bitcast(address_of(context, builder, signature, args), ir.HalfType().as_pointer())
        return builder.fpext(builder.load(source, typ=ir.HalfType()), ir.FloatType())

    return types.float32(array, types.intp), generate


@intrinsic
def multiply_add(typing, value, factor, total):
    """Return ``value · factor + total``, float32 all three, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), generate
