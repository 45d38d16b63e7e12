"""What processes exchange, and what they say when one of them is lost."""

from __future__ import annotations

import json
from array import array
from typing import TYPE_CHECKING

from prunecli.distributed.group import Group

if TYPE_CHECKING:
    from support.together import Together

CONNECT = """
import os, json, time
from array import array
from prunecli.distributed.environment import launched
from prunecli.distributed.failures import Failure
from prunecli.distributed.gloo import connect
group = connect(launched(os.environ))
"""


def test_one_process_alone() -> None:
    """A group of one returns what it is passed, and exchanges nothing."""
    numbers, group = array("q", [1, 2]), Group()
    group.add_up(numbers)

    assert (group.rank, group.size, group.exchanged) == (0, 1, 0)
    assert (group.gather(b"a"), group.broadcast(b"b"), numbers.tolist()) == ([b"a"], b"b", [1, 2])


def test_exchanges(forks: Together) -> None:
    """Bytes of any length are gathered by rank, sums are exact, and the bytes that a process sends are counted."""
    code = (
        CONNECT
        + """
numbers = array("q", [rank, 2**40])
group.add_up(numbers)
long = group.gather(bytes([rank]) * (rank * 700_000))
print(json.dumps([repr(group.gather(b"x" * rank)), numbers.tolist(),
    [len(one) for one in long], [set(one) == {r} or not one for r, one in enumerate(long)],
    group.broadcast(b"from %d" % rank).decode(), group.exchanged]))
group.settle()
"""
    )
    ended = forks.run(3, code=code)

    assert ended.codes == [0, 0, 0], ended.stderr
    own = [16 + rank * 700_000 + rank + 6 * (rank == 0) for rank in range(3)]
    for rank in range(3):
        assert json.loads(ended.stdout[rank]) == [
            "[b'', b'x', b'xx']",
            [3, 3 * 2**40],
            [0, 700_000, 1_400_000],
            [True, True, True],
            "from 0",
            own[rank],
        ]


def test_a_lost_process_is_named(forks: Together) -> None:
    """When a process is killed, the others say which one it was; when it is rank 0, with the connections, too."""
    code = (
        CONNECT
        + """
lost = int(words[0])
if rank == lost:
    os.kill(os.getpid(), 9)
try:
    group.barrier()
except Exception as error:
    print(str(error).replace(group.host(0), "HOST"), flush=True)
os._exit(0)
"""
    )
    message = "on HOST: this process ended without a report: it was killed, or its machine is gone\n"
    for lost in (0, 1):
        ended = forks.run(3, [lost], code=code)

        assert [out for rank, out in enumerate(ended.stdout) if rank != lost] == [f"rank {lost} {message}"] * 2
        assert ended.codes[lost] == -9


def test_a_failure_stops_the_others_in_the_middle_of_their_work(forks: Together) -> None:
    """A process that sleeps hears of a failure and of its reason."""
    code = (
        CONNECT
        + """
try:
    if rank == 1:
        print(group.fail(Failure(rank, "a", 2, "the disk is full", "buy another")).rank, flush=True)
    else:
        time.sleep(50)
except Exception as error:
    print(str(error).partition(": ")[2], "|", error.hint, error.failure.code, flush=True)
os._exit(0)
"""
    )
    ended = forks.run(3, code=code, limit=40)

    assert ended.stdout == ["the disk is full | buy another 2\n", "1\n", "the disk is full | buy another 2\n"]
