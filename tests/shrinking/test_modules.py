"""Shrunk tables inside a model: called as before, written, and put into a fresh model again."""

import json

import pytest
import torch
from torch import nn

import slimtab
from slimtab.errors import SlimtabError
from slimtab.shrinking.artefact import save_shrunk
from slimtab.shrinking.checkpoint import without_tables


class Net(nn.Module):
    """Two widths, a bag, a padding id, and one weight for two modules."""

    def __init__(self):
        super().__init__()
        self.user = nn.Embedding(3000, 16, padding_idx=0)
        self.again = nn.Embedding(3000, 16, padding_idx=0)
        self.again.weight = self.user.weight
        self.words = nn.EmbeddingBag(2000, 8, mode="mean")
        self.day = nn.Embedding(7, 8)
        self.out = nn.Linear(16 + 16 + 8 + 8, 1)

    def forward(self, ids):
        parts = [self.user(ids), self.again(ids), self.words(ids[:, None] % 2000), self.day(ids % 7)]
        return self.out(torch.cat(parts, dim=1)).squeeze(1)


def net(seed=0):
    torch.manual_seed(seed)
    return Net().eval()


IDS = torch.arange(0, 3000, 7)


@pytest.mark.parametrize("method", ["int8", "rq"])
def test_a_model_goes_on_as_it_was_called(method):
    model = net()
    before = model(IDS).detach()
    shrunk = slimtab.shrink(model, method, "40%")
    assert shrunk.replaced == ["user", "again", "words"]
    assert shrunk.serve_bytes <= 0.4 * shrunk.full_bytes
    assert shrunk.full_bytes == 4 * (3000 * 16 + 2000 * 8)
    assert isinstance(model.day, nn.Embedding)
    after = model(IDS).detach()
    assert (after - before).abs().max() < (0.01 if method == "int8" else 0.5)
    assert torch.equal(model.user(torch.tensor([0])), torch.zeros(1, 16))
    assert torch.equal(model.user(IDS[1:]), shrunk.vectors("user", IDS[1:]))


def test_no_gradient_flows_into_frozen_tables():
    """The dense network may go on training."""
    model = net()
    slimtab.shrink(model, "int4")
    model.train()(IDS).sum().backward()
    assert model.out.weight.grad is not None
    assert [name for name, _ in model.named_parameters()] == ["day.weight", "out.weight", "out.bias"]


def saved(tmp_path, method="rq", budget="20%"):
    model = net()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tables = {"user": state["user.weight"], "words": state["words.weight"]}
    shrunk = slimtab.shrink(tables, method, budget)
    del state["again.weight"]  # as safetensors has it: one name for one weight
    save_shrunk(shrunk, tmp_path / "out", without_tables(state, tables))
    return model, shrunk, tmp_path / "out"


def test_a_fresh_model_takes_what_was_written(tmp_path):
    model, shrunk, folder = saved(tmp_path)
    slimtab.shrink(model, "rq", "20%")
    fresh = slimtab.restore(net(seed=1), folder)
    assert torch.equal(fresh(IDS), model(IDS))
    loaded = slimtab.load_shrunk(folder)
    assert torch.equal(loaded.vectors("words"), shrunk.vectors("words"))
    claimed = json.loads((folder / "model.json").read_text())["serve_bytes"]
    assert claimed <= (folder / "tables.safetensors").stat().st_size <= 1.02 * claimed + 64 * 1024


def test_another_model_is_told_what_it_lacks(tmp_path):
    _, _, folder = saved(tmp_path)
    with pytest.raises(SlimtabError, match="table 'user' is no embedding of the model"):
        slimtab.restore(nn.Sequential(nn.Embedding(3000, 16)), folder)
    other = net()
    other.words = nn.EmbeddingBag(2001, 8)
    with pytest.raises(SlimtabError, match=r"'words' is \[2001, 8\] in the model and \[2000, 8\]"):
        slimtab.restore(other, folder)
    other = net()
    other.more = nn.Linear(2, 2)
    with pytest.raises(SlimtabError, match=r"lacks 'more.weight'"):
        slimtab.restore(other, folder)
    other = net()
    other.out = nn.Identity()
    with pytest.raises(SlimtabError, match=r"holds 'out.bias', which the model lacks"):
        slimtab.restore(other, folder)


def test_a_damaged_folder_is_one_line(tmp_path):
    _, _, folder = saved(tmp_path)
    whole = (folder / "tables.safetensors").read_bytes()
    (folder / "tables.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SlimtabError, match=r"tables.safetensors is missing or damaged"):
        slimtab.load_shrunk(folder)
    (folder / "tables.safetensors").write_bytes(whole)
    card = json.loads((folder / "model.json").read_text())
    card["groups"][0]["config"]["levels"] = [8, 8]
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(SlimtabError, match="does not fit") as caught:
        slimtab.load_shrunk(folder)
    assert "\n" not in str(caught.value)
    (folder / "model.json").write_text("{")
    with pytest.raises(SlimtabError, match="no shrunk tables at"):
        slimtab.load_shrunk(folder)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["int8", "rq", "pq", "binary", "tt", "prune"])
def test_a_row_of_nan_is_named(method, wrong):
    table = torch.randn(2000, 16)
    table[1234, 3] = wrong
    with pytest.raises(SlimtabError, match="table 'b', row 1234 holds NaN or infinity"):
        slimtab.shrink({"a": torch.randn(100, 16), "b": table}, method, "40%")


@pytest.mark.parametrize(
    ("tables", "counts", "words"),
    [
        ({}, None, "no table to shrink"),
        ({"a": torch.arange(10)}, None, "'a' is no table"),
        ({"a": torch.randn(10, 4)}, {"b": torch.ones(10)}, "no counts for table 'a'"),
        ({"a": torch.randn(10, 4)}, {"a": torch.ones(9)}, "10 rows and its counts are 9"),
    ],
)
def test_wrong_tables_are_named(tables, counts, words):
    with pytest.raises(SlimtabError, match=words):
        slimtab.shrink(tables, "int8", counts=counts)


def test_figures_equal_numpy():
    table = torch.randn(3000, 16, dtype=torch.float64).float()
    table[5] = 0
    counts = torch.arange(3000) % 50 + 1
    shrunk = slimtab.shrink({"a": table}, "int2", counts={"a": counts})
    found, own, read = shrunk.figures["a"], table.double().numpy(), shrunk.vectors("a").double().numpy()
    error, square = ((own - read) ** 2).sum(1), (own**2).sum(1)
    assert found["rmse"] == pytest.approx((error.mean() / 16) ** 0.5, rel=1e-5)
    assert found["relative_error"] == pytest.approx((error.sum() / square.sum()) ** 0.5, rel=1e-5)
    weight = counts.double().numpy()
    by_count = ((weight @ error) / (weight @ square)) ** 0.5
    assert found["relative_error_by_count"] == pytest.approx(by_count, rel=1e-5)
    some = square > 0
    cosine = (own * read).sum(1)[some] / (square * (read**2).sum(1))[some] ** 0.5
    assert found["cosine"] == pytest.approx(cosine.mean(), abs=1e-3)
    within = ((error[some] / square[some]) ** 0.5 <= 0.3).mean()
    assert found["rows_by_error"]["0.3"] == pytest.approx(within, abs=1e-3)
