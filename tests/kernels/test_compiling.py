"""Kernels are divided among torch's threads: all of the work, once, with its errors."""

import multiprocessing
import threading

import pytest
import torch

from slimtab.kernels.compiling import in_parts


@pytest.fixture
def threads():
    """Two of them, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def covered(count):
    """How often each of ``count`` is visited, and by which threads."""
    visits, names = torch.zeros(count, dtype=torch.int64), set()

    def loop(begin, end, array):
        array[begin:end] += 1
        names.add(threading.current_thread().name)

    in_parts(loop, count, visits)
    return visits, names


@pytest.mark.parametrize("count", [0, 1, 8191, 8192, 16384, 30_001])
def test_all_is_done_once(count, threads):
    visits, names = covered(count)
    assert torch.equal(visits, torch.ones(count, dtype=torch.int64))
    assert len(names) == (threads if count >= 16384 else 1)


@pytest.mark.parametrize("failing", [0, 15_000])
def test_an_error_in_any_part_is_raised(failing, threads):
    def loop(begin, end):
        if begin == failing:
            raise IndexError("here")

    with pytest.raises(IndexError, match="here"):
        in_parts(loop, 30_000)


def _forked(results):
    torch.set_num_threads(2)
    results.put(int(covered(20_000)[0].sum()))


def test_a_forked_process_has_threads_of_its_own(threads):
    """Workers of a data loader are forked, and threads stay behind."""
    covered(20_000)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_forked, args=(results,))
    child.start()
    assert results.get(timeout=60) == 20_000
    child.join(60)
    assert child.exitcode == 0
