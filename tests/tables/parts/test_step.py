"""The step function and its long-tailed derivative."""

import pytest
import torch

from slimtab.tables.parts.step import step


@pytest.mark.parametrize(
    ("u", "slope"), [(0.0, 2.0), (0.1, 1.6), (0.4, 0.4), (0.7, 0.4), (1.0, 0.4), (1.001, 0.0), (9.0, 0.0)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_derivative(u, slope, sign):
    """2 − 4|u| up to 0.4, then 0.4 up to 1, then nothing (methods.md §5.2)."""
    at = torch.tensor(sign * u, dtype=torch.float64, requires_grad=True)
    step(at).backward()
    assert float(at.grad) == pytest.approx(slope)


def test_forward_is_a_step():
    assert step(torch.tensor([-1.0, 0.0, 1e-9, 2.0])).tolist() == [0, 0, 1, 1]
