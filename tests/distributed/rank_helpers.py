"""Start real ranks: processes that talk by gloo, forked from one that has imported torchrec already."""

import json
import multiprocessing
import os
import socket
import traceback
import warnings

import torch

# A process that has touched a GPU cannot be forked.
_SERVER = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "forkserver")
_SERVER.set_forkserver_preload(
    ["torchrec.distributed.planner", "slimtab.run", "slimtab.training.engine.ranks"]
)
_TIMEOUT = 120


def run_ranks(count, work, *args):
    """Call ``work(*args)`` in ``count`` ranks and return what each returned, or its error's last line.

    ``work`` is a function of a test module; what it returns must be JSON.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, ranks = [], []
    for rank in range(count):
        mine, theirs = _SERVER.Pipe(duplex=False)
        process = _SERVER.Process(target=_rank, args=(rank, count, port, theirs, work, args))
        process.start()
        theirs.close()
        pipes.append(mine)
        ranks.append(process)
    answers = []
    for pipe, process in zip(pipes, ranks, strict=True):
        assert pipe.poll(_TIMEOUT), "a rank hangs"
        try:
            answers.append(json.loads(pipe.recv()))
        except EOFError:
            answers.append({"error": "killed"})
        process.join(_TIMEOUT)
        assert process.exitcode is not None, "a rank does not end"
    return answers


def values(answers):
    """The values of ranks that all ended well."""
    assert all("value" in answer for answer in answers), answers
    return [answer["value"] for answer in answers]


def _rank(rank, count, port, pipe, work, args):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        answer = {"value": work(*args)}
    except Exception as error:
        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {error}"}
    pipe.send(json.dumps(answer))
