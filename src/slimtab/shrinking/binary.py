"""binary: a rotation, a length for each row and its signs, fitted to each other in turns.

Given rotation and lengths, the nearest sum of signs is what the recurrence finds: each sign that of what is
left. Given the signs, the rotation is an orthogonal Procrustes problem (Schönemann, 1966) and the lengths are
least squares.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from slimtab.shrinking.vectors import Vectors
from slimtab.tables.fitted.binary import Binary, FrozenBinary, signs
from slimtab.tables.parts.codes import pack_codes
from slimtab.tables.parts.sizing import largest

_SAMPLE = 1 << 16  # rows that the rotation is fitted to, at most
_TRIED = 1 << 13  # rows that settings are tried on
_CHUNK = 1 << 16  # rows coded at a time
_TURNS = 20  # of rotation and codes
_LENGTHS = (0.4, 0.5, 0.6, 0.7, 0.8, 1.0)  # of a row's signs, in its largest coordinates, where fits start


def smallest_binary(vectors: Vectors) -> int:
    """Return the bytes of one bit for each vector, and its length."""
    return Binary(1, 1).nbytes(vectors.rows, vectors.dim)


def largest_binary(vectors: Vectors, nbytes: int, seed: int) -> Binary:
    """Return bits and width within ``nbytes``: those that code a sample with the least weighted error."""
    sample, weights = vectors.sample(_TRIED, seed)
    best, least = Binary(1, 1), float("inf")
    for bits in range(1, 9):
        config = Binary(bits, _widest(vectors, bits, nbytes))
        if config.width:
            rotation = _rotation(sample, weights, config, seed)
            numbers, lengths = code_rows(sample @ rotation.t(), bits)
            coded = (signs(numbers, bits) * lengths.float()) @ rotation
            error = float(weights @ (sample - coded).square().sum(dim=1))
            if error < least:
                best, least = config, error
    return best


def _widest(vectors: Vectors, bits: int, nbytes: int) -> int:
    """Return for how many coordinates there is room."""
    return largest(
        lambda width: Binary(bits, width).nbytes(vectors.rows, vectors.dim) <= nbytes, 0, vectors.dim
    )


def fit_binary(vectors: Vectors, config: Binary, seed: int, told: Callable[[int], object]) -> FrozenBinary:
    """Fit a rotation to a sample, and code all vectors chunk by chunk.

    Args:
        vectors: what to code.
        config: bits and width.
        seed: of the sample and of the rotation's start.
        told: called with the rows done.
    """
    rotation = _rotation(*vectors.sample(_SAMPLE, seed), config, seed)
    numbers = torch.empty(vectors.rows, config.width, dtype=torch.uint8)
    lengths = torch.empty(vectors.rows, 1, dtype=torch.float16)
    for start, chunk in vectors.chunks(_CHUNK):
        stop = start + len(chunk)
        numbers[start:stop], lengths[start:stop] = code_rows(chunk @ rotation.t(), config.bits)
        told(len(chunk))
    return FrozenBinary(config, pack_codes(numbers, config.bits), lengths, rotation, vectors.offset)


def code_rows(turned: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return numbers [N, width] uint8 and lengths [N, 1] float16 of ``turned`` [N, width]."""
    largest = turned.abs().amax(dim=1, keepdim=True)
    best_error = torch.full_like(largest, torch.inf)
    best_numbers, best_length = torch.zeros_like(turned), torch.zeros_like(largest)
    for start in _LENGTHS if bits > 1 else (1.0,):
        length = largest * start
        for _ in range(2):
            numbers = _numbers(turned, length, bits)
            sums = signs(numbers, bits)
            own, square = (turned * sums).sum(dim=1, keepdim=True), sums.square().sum(dim=1, keepdim=True)
            length = (own / square).half().float()
            error = (turned - sums * length).square().sum(dim=1, keepdim=True)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_numbers = torch.where(better, numbers, best_numbers)
            best_length = torch.where(better, length, best_length)
    return best_numbers.to(torch.uint8), best_length.half()


def _numbers(turned: Tensor, length: Tensor, bits: int) -> Tensor:
    """Return which sum of signs times ``length`` [N, 1] is nearest, as floats [N, width]."""
    scaled = turned / length.clamp(min=2.0**-24) * (1 << (bits - 1))
    return ((scaled + ((1 << bits) - 1)) / 2).round_().clamp_(0, (1 << bits) - 1)


def _rotation(sample: Tensor, weights: Tensor, config: Binary, seed: int) -> Tensor:
    """Return orthonormal rows [width, dim], from the directions of largest variance on."""
    weighted = sample * weights[:, None].sqrt()
    directions = torch.linalg.eigh(weighted.t() @ weighted).eigenvectors.flip(1)[:, : config.width].t()
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.linalg.qr(torch.randn(config.width, config.width, generator=generator)).Q
    rotation = mixed @ directions  # as much variance in every coordinate
    for _ in range(_TURNS):
        numbers, lengths = code_rows(sample @ rotation.t(), config.bits)
        codes = signs(numbers, config.bits) * lengths.float()
        u, _, v = torch.linalg.svd((codes * weights[:, None]).t() @ sample, full_matrices=False)
        rotation = u @ v
    turned: Tensor = rotation.contiguous()
    return turned
