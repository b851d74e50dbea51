"""Rows are read as torch reads them, faster."""

import pytest
import torch

from slimtab.tables.parts.reading import join_rows, read_rows


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 16])
def test_reads_rows(width):
    matrix = torch.randn(50, width)
    address = torch.tensor([3, 4, 49, 0, 3])
    assert torch.equal(read_rows(matrix, address), matrix[address])


@pytest.mark.parametrize("width", [1, 2, 4])
def test_reads_elements(width):
    """Bits, not numbers: NaN payloads and signed zeros come through."""
    matrix = torch.randn(50, width)
    matrix[3] = float("nan")
    matrix[4] = -0.0
    address = torch.tensor([3, 4, 49, 0, 3])
    read = read_rows(matrix, address)
    assert read.shape == (5, width)
    assert torch.equal(read.view(torch.int32), matrix[address].view(torch.int32))


def test_reads_nothing():
    assert read_rows(torch.randn(5, 4), torch.empty(0, dtype=torch.int64)).shape == (0, 4)


@pytest.mark.parametrize("width", [4, 16])
@pytest.mark.parametrize("outside", [5, -1])
def test_an_address_outside_is_an_error(width, outside):
    """Never another row."""
    with pytest.raises((IndexError, RuntimeError)):
        read_rows(torch.randn(5, width), torch.tensor([outside]))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("count", [0, 5])
def test_joins_rows(width, count):
    parts = [torch.randn(count, width) for _ in range(3)]
    assert torch.equal(join_rows(parts), torch.cat(parts, dim=1))


def test_reads_bytes_by_int32():
    """Rows of any type, at addresses of either."""
    matrix = torch.randint(0, 2, (50, 16), dtype=torch.int8)
    address = torch.tensor([3, 49, 0], dtype=torch.int32)
    assert torch.equal(read_rows(matrix, address), matrix[address])
