"""Compression inside somebody else's model: ``slimtab.compress(model, method="qr", budget="10%")``.

Every large `nn.Embedding` and `nn.EmbeddingBag` is replaced in place by a module that is called alike. The
bags inside torchrec's `EmbeddingBagCollection` are ordinary ones, so collections need no case of their own
and keep their configs, feature names and weights. All replaced modules of one width share one table, each
as a feature of it, so that methods which share storage over features do so here too.
"""

from slimtab.dropin.replace import compress
from slimtab.dropin.report import Report

__all__ = ["Report", "compress"]
