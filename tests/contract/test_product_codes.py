"""The contract, for product codes: dpq and mgqe."""

from __future__ import annotations

from slimtab.schema import Feature
from slimtab.tables.base import get_method
from slimtab.tables.parts.product_config import ProductConfig
from slimtab.testing.contract import TableContract


class ProductContract(TableContract):
    def may_waste(self, counted: int, nbytes: int, features: list[Feature], dim: int) -> bool:
        """Nothing larger fits: neither the next feature kept full nor any setting with more bits per id."""
        config_type = get_method(self.method).Config
        assert issubclass(config_type, ProductConfig)
        config = config_type.for_budget(features, dim, nbytes, **self.options)
        coded = [slot for slot, exact in enumerate(config.exact) if not exact]
        smallest = min(coded, key=lambda slot: features[slot].num_ids)
        more = [exact or slot == smallest for slot, exact in enumerate(config.exact)]
        ladder = config_type._ladder(features, dim, **self.options)
        place = next(
            place
            for place, step in enumerate(ladder)
            if (step.parts, step.codes) == (config.parts, config.codes)
        )
        larger = [config.with_exact(more), *ladder[place + 1 :]]
        return all(step.nbytes(features, dim) > nbytes for step in larger)


class TestDPQ(ProductContract):
    method = "dpq"


class TestDPQFewBits(ProductContract):
    method = "dpq"
    budget = "5%"


class TestMGQE(ProductContract):
    method = "mgqe"


class TestMGQEFewBits(ProductContract):
    method = "mgqe"
    options = {"hot_share": 0.3}
    budget = "5%"
