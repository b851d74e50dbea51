"""DPQ: product codes learned while training, by straight-through gradients.

Chen, Li & Sun, "Differentiable product quantization for end-to-end embedding compression", ICML 2020, in its
vector-quantisation form.
"""

from __future__ import annotations

from dataclasses import dataclass

from slimtab.tables.parts.product_config import ProductConfig
from slimtab.tables.parts.product_training import ProductCodes


@dataclass(frozen=True)
class DPQConfig(ProductConfig):
    """Settings of :class:`DPQ`: all of them are the budget's to choose."""


class DPQ(ProductCodes, method="dpq"):
    """Every id of a feature that is not kept full chooses among all pieces of a codebook."""

    kind = "dynamic sharing"
    paper = "Chen et al., ICML 2020"
    Config = DPQConfig
