"""What tests of slimtab, and of methods written elsewhere, build on: fakes here, the contract beside them."""

from slimtab.testing.fakes import fake_batch, fake_dataset, fake_schema

__all__ = ["fake_batch", "fake_dataset", "fake_schema"]
