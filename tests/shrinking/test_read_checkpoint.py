"""Files from elsewhere: which of their tensors are tables, and one clear line for what is wrong."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from slimtab.errors import SlimtabError
from slimtab.shrinking.checkpoint import find_tables, read_checkpoint, without_tables


class Evil:
    """Pickles as a call."""

    def __reduce__(self):
        return print, ("the checkpoint ran code",)


def state():
    return {
        "ebc.embedding_bags.t_C1.weight": torch.randn(2000, 8),
        "emb.weight": torch.randn(1500, 4),
        "small.weight": torch.randn(20, 4),
        "wide.weight": torch.randn(1200, 3000),
        "lin.weight": torch.randn(2000, 10),
        "lin.bias": torch.randn(2000),
        "steps": torch.tensor(3),
    }


@pytest.mark.parametrize("form", ["pt", "old", "nested", "parallel", "safetensors"])
def test_reads_every_form(tmp_path, form):
    """What training code leaves: a state_dict alone, inside a mapping, or wrapped for several processes."""
    path, given = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pt"), state()
    if form == "safetensors":
        save_file(given, path)
    elif form == "nested":
        torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, "state_dict": given}, path)
    elif form == "parallel":
        torch.save({f"module.{name}": tensor for name, tensor in given.items()}, path)
    else:
        torch.save(given, path, _use_new_zipfile_serialization=form != "old")
    found = read_checkpoint(path)
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], given[name]) for name in given)
    assert list(find_tables(found)) == ["ebc.embedding_bags.t_C1", "emb"]


def test_code_in_a_file_is_refused_and_never_runs(tmp_path, capsys):
    torch.save({"a.weight": torch.ones(3, 3), "hook": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(SlimtabError, match=r"holds code .*--trust"):
        read_checkpoint(tmp_path / "evil.pt")
    assert "ran code" not in capsys.readouterr().out
    assert list(read_checkpoint(tmp_path / "evil.pt", trust=True)) == ["a.weight"]
    assert "ran code" in capsys.readouterr().out


def test_a_whole_module_needs_trust(tmp_path):
    torch.save(nn.Embedding(1000, 4), tmp_path / "module.pt")
    with pytest.raises(SlimtabError, match=r"holds code \(torch.nn.modules.sparse.Embedding\)"):
        read_checkpoint(tmp_path / "module.pt")
    assert list(read_checkpoint(tmp_path / "module.pt", trust=True)) == ["weight"]


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("kept", [0, 5, 300])
def test_a_truncated_file_is_one_line(tmp_path, name, kept):
    path = tmp_path / name
    save_file(state(), path) if name.endswith("s") else torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SlimtabError, match=r"save or copy it again") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"), [({"epoch": 3}, "holds no tensors by name"), ([1, 2], "holds no tensors by name")]
)
def test_a_file_without_tensors_is_named(tmp_path, content, words):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(SlimtabError, match=words):
        read_checkpoint(tmp_path / "a.pt")


def test_no_file_is_named(tmp_path):
    with pytest.raises(SlimtabError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "a.pt")


def test_names_choose_tables():
    """Where they do not look like tables, or not all are wanted; small ones too."""
    given = state()
    assert list(find_tables(given, patterns=["small", "*t_C1"])) == ["ebc.embedding_bags.t_C1", "small"]
    assert list(find_tables(given, min_ids=10)) == ["ebc.embedding_bags.t_C1", "emb", "small"]
    with pytest.raises(SlimtabError, match=r"--tables nope .* it has ebc.embedding_bags.t_C1"):
        find_tables(given, patterns=["emb", "nope"])
    with pytest.raises(SlimtabError, match="no embedding table of 5000 ids"):
        find_tables(given, min_ids=5000)


def test_a_weight_under_two_names_is_one_table():
    """Tied embeddings would be stored twice, and once in full."""
    given = state()
    given["tied.weight"] = given["emb.weight"]
    tables = find_tables(given)
    assert list(tables) == ["ebc.embedding_bags.t_C1", "emb"]
    left = without_tables(given, tables)
    assert set(left) == {"small.weight", "wide.weight", "lin.weight", "lin.bias", "steps"}
