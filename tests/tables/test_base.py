"""The contract of a table and its registry: what a method written elsewhere relies on."""

from dataclasses import dataclass

import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables import base
from slimtab.tables.base import Clock, EmbeddingTable, FrozenTable, TableConfig, get_method, methods
from slimtab.tables.rows.plain import PlainRows


@pytest.fixture
def registry(monkeypatch):
    """A copy of the registry, so that a test's methods are gone after it."""
    monkeypatch.setattr(base, "_METHODS", dict(base._METHODS))


@dataclass(frozen=True)
class ConstantConfig(TableConfig):
    """One float for all ids."""

    scale: float = 1.0

    @classmethod
    def smallest_bytes(cls, features, dim, **options):
        return 4

    @classmethod
    def _largest(cls, features, dim, nbytes, **options):
        return cls(**options)


class FrozenConstant(FrozenTable):
    def __init__(self, value, dim):
        super().__init__()
        self.dim = dim
        self.register_buffer("value", value)

    def forward(self, ids, slot):
        return self.value.expand(len(ids), self.dim)


class Constant(EmbeddingTable):
    """As little as a method can be: a lookup and a freeze."""

    kind, paper, Config = "test", "none", ConstantConfig

    def __init__(self, config, features, dim, make_rows, init_std):
        super().__init__(config, features, dim, make_rows, init_std)
        self.value = torch.nn.Parameter(torch.tensor(config.scale))

    def lookup(self, ids, slot):
        return self.value.expand(len(ids), self.dim)

    def freeze(self):
        return FrozenConstant(self.value.detach(), self.dim)


def build(sizes=(10, 30)):
    features = [Feature(f"C{n}", size) for n, size in enumerate(sizes)]
    return Constant(ConstantConfig(), features, 4, PlainRows, 0.1)


def test_slimtabs_own_methods_are_found():
    """The registry imports the package's modules by itself: a new method is one new file."""
    assert {"full", "hash", "unified"} <= set(methods())
    assert list(methods()) == sorted(methods())


def test_every_method_says_what_it_is():
    """`slimtab methods` prints these."""
    for name, table in methods().items():
        assert table.method == name
        assert table.kind
        assert table.paper
        assert table.stages
        assert issubclass(table.Config, TableConfig)


def test_defining_a_class_registers_it(registry):
    """Out-of-tree methods register by being imported."""

    class Mine(Constant, method="mine"):
        pass

    assert get_method("mine") is Mine
    assert Mine.method == "mine"


def test_a_name_used_twice_names_both(registry):
    """Which of two 'hash' would train must not depend on import order."""
    with pytest.raises(SlimtabError, match=r"'hash' is already slimtab\.tables\.hash\.Hash.*Other"):

        class Other(Constant, method="hash"):
            pass


def test_reloading_a_module_is_not_a_clash(registry):
    """Notebooks reload; the same class defined again replaces itself."""
    for _ in range(2):

        class Again(Constant, method="again"):
            pass

    assert get_method("again") is Again


def test_a_base_without_a_name_is_not_registered(registry):
    """Shared bases such as AddressedTable are no methods."""

    class Middle(Constant):
        pass

    assert Middle not in methods().values()


def test_an_unknown_method_names_the_nearest():
    """A typing mistake answers with what was meant."""
    with pytest.raises(SlimtabError, match="no method 'unifed'; did you mean 'unified'"):
        get_method("unifed")


def test_the_contract_without_overrides():
    """Everything beyond lookup and freeze has a default that does nothing."""
    table = build()
    assert table.penalty() is None
    assert table.stats() == {}
    table.on_step(Clock(3, 10, 30))
    pooled = torch.randn(5, 2, 4)
    assert table.project(pooled) is pooled
    assert table(torch.tensor([1, 2]), torch.tensor([0, 1])).shape == (2, 4)


def test_serve_bytes_are_counted_on_the_frozen_buffers():
    """No formula of a method's own, which could forget an index."""
    assert build().serve_bytes() == 4


@pytest.mark.parametrize("sizes", [(10, 30), (1, 1, 1), (7,), (10**7, 1, 13)])
def test_bytes_by_feature_add_up(sizes):
    """Shared storage is split by ids, and nothing is lost in rounding."""
    table = build(sizes)
    assert sum(table.bytes_by_feature()) == table.serve_bytes()
    assert len(table.bytes_by_feature()) == len(sizes)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("hash", {"prob": 2}, "hash has no option 'prob'; did you mean 'probes'"),
        ("unified", {"projct": True}, "unified has no option 'projct'; did you mean 'project'"),
        ("full", {"probes": 2}, "full has no option 'probes'"),
        ("hash", {"rows": [1]}, "no option 'rows'"),  # the budget chooses it
        ("unified", {"rows": 5}, "no option 'rows'"),
        ("hash", {"probes": 0}, "probes to 1 or more"),
        ("unified", {"probes": -4}, "probes to 1 or more"),
        ("unified", {"probes": 3}, "does not divide the width 16"),
        ("unified", {"probes": "four"}, "'probes' is 'four'"),
        ("unified", {"probes": 2.0}, r"'probes' is 2\.0"),
        ("unified", {"project": 1}, "'project' is 1"),
    ],
)
def test_wrong_options_are_one_readable_line(method, options, message):
    """Options arrive from YAML and the command line unchecked."""
    features = [Feature("a", 100), Feature("b", 1000)]
    with pytest.raises(SlimtabError, match=message) as caught:
        get_method(method).Config.for_budget(features, 16, 10**6, **options)
    assert "\n" not in str(caught.value)


def test_an_in_line_config_is_called_by_its_method():
    """Out-of-tree configs are often nested and simply called Config."""

    class QR:
        class Config(ConstantConfig):
            __qualname__ = "QR.Config"

    with pytest.raises(SlimtabError, match=r"^qr cannot fit 3 B"):
        QR.Config.for_budget([Feature("a", 5)], 4, 3)
