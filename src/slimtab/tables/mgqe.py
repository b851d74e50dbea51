"""MGQE: product codes of which rare ids may use only a few, and so need fewer bits.

Kang et al., "Learning multi-granular quantized embeddings for large-vocab categorical features in recommender
systems", WWW 2020 companion. Ids are numbered by falling frequency, so the frequent ones are known without
a flag: they are the first of each feature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from slimtab.errors import SlimtabError
from slimtab.tables.parts.product_config import ProductConfig
from slimtab.tables.parts.product_training import ProductCodes


@dataclass(frozen=True)
class MGQEConfig(ProductConfig):
    """Settings of :class:`MGQE`.

    Attributes:
        hot_share: share of each feature's ids, the most frequent ones, that may use all codes. The rest
            use the first quarter of the same codebook: 6 bits instead of 8 where there are 256 codes.
    """

    least_bits = 3  # two codes are left for rare ids

    hot_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.hot_share < 1.0:
            raise SlimtabError(
                f"mgqe cannot call {self.hot_share:g} of the ids frequent; set hot_share between 0 and 1"
            )

    def hot_ids(self, num_ids: int) -> int:
        """Return how many ids of a feature may use all codes, id 0 always among them."""
        return math.ceil(self.hot_share * num_ids)


class MGQE(ProductCodes, method="mgqe"):
    """Frequent ids choose among all pieces of a codebook, rare ones among a quarter of them."""

    kind = "dynamic sharing"
    by_frequency = True
    paper = "Kang et al., WWW 2020"
    Config = MGQEConfig
