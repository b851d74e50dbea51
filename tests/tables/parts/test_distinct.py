"""Every vector of a batch goes through this, so it is held to the plainest reference there is."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimtab.tables.parts.distinct import _add_up, _add_up_on_gpu, distinct

LISTS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5), max_size=200)
NUMBERS = LISTS | LISTS.map(lambda numbers: sorted(set(numbers)))  # these need not be looked for


@given(NUMBERS)
def test_finds_what_numpy_finds(numbers: list[int]) -> None:
    found = distinct(torch.tensor(numbers, dtype=torch.int64))
    values, first, inverse = np.unique(
        np.array(numbers, dtype=np.int64), return_index=True, return_inverse=True
    )
    assert found.values.tolist() == values.tolist()
    assert found.places.tolist() == first.tolist()
    assert found.inverse.tolist() == inverse.tolist()


@given(NUMBERS)
def test_expanding_and_its_gradient_equal_indexing(numbers: list[int]) -> None:
    """The backward pass is a segmented sum of our own; autograd's gather is the reference."""
    found = distinct(torch.tensor(numbers, dtype=torch.int64))
    vectors = torch.randn(len(found.values), 3, dtype=torch.float64)
    ours, reference = vectors.clone().requires_grad_(), vectors.clone().requires_grad_()
    weight = torch.randn(len(numbers), 3, dtype=torch.float64)
    (found.expand(ours) * weight).sum().backward()
    (reference[found.inverse] * weight).sum().backward()
    assert torch.equal(found.expand(ours), reference[found.inverse])
    assert torch.allclose(ours.grad, reference.grad)


@given(NUMBERS)
def test_a_gpu_adds_up_what_processors_add_up(numbers: list[int]) -> None:
    found = distinct(torch.tensor(numbers, dtype=torch.int64))
    gradient = torch.randn(len(numbers), 3)
    assert torch.allclose(_add_up_on_gpu(found, gradient), _add_up(found, gradient), atol=1e-5)
