"""The slices and blocks of a tensor's elements, by index arithmetic on a torch device: see `prunecli.kernels.views`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.kernels.views import block_grid

if TYPE_CHECKING:
    from prunecli.layout import SliceView

Tensor: TypeAlias = Any

RUN = 1 << 22
"""Elements whose numbers, 8 bytes each, are computed at once."""


def elements(torch: Any, start: int, count: int, device: Any) -> Tensor:  # noqa: ANN401 - the module, a torch device
    """Return the numbers of `count` elements from `start`."""
    return torch.arange(start, start + count, device=device)


def slice_numbers(torch: Any, index: Tensor, view: SliceView) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - the module
    """Return the number of the slice of each element, and its position in that slice."""
    runs, a = _divmod(torch, index, view.after)
    rows, number = _divmod(torch, runs, view.slices)
    stack, b = _divmod(torch, rows, view.before)
    return stack * view.slices + number, b * view.after + a


def block_numbers(torch: Any, index: Tensor, view: SliceView, block: tuple[int, int]) -> Tensor:  # noqa: ANN401
    """Return the number of the block of each element, as `block_grid` orders them."""
    _, bands, wide = block_grid(view, block)
    number, column = slice_numbers(torch, index, view)
    stack, row = _divmod(torch, number, view.slices)
    return (stack * bands + row // block[0]) * wide + column // block[1]


def of_elements(torch: Any, numbers: Tensor, start: int, count: int, view: SliceView) -> Tensor:  # noqa: ANN401
    """Return the number of the slice of each of `count` elements from `start`; `numbers` has one per slice.

    The result has memory of its own: the numbers of one slice would be one number.
    """
    cycle = view.slices * view.after
    if start % cycle == 0 and count % cycle == 0:  # whole cycles: a broadcast, and one copy
        rows, numbers = count // cycle, numbers.reshape(view.stacks, 1, view.slices, 1)
        every = numbers.expand(view.stacks, view.before, view.slices, view.after)
        if rows == view.stacks * view.before:
            return _flat(torch, every)
        if view.stacks == 1:
            return _flat(torch, every[:, :rows])
    if view.before == 1 and start % view.after == 0 and count % view.after == 0:
        first = start // view.after
        picked = numbers.reshape(-1)[first : first + count // view.after]
        return _flat(torch, picked[:, None].expand(-1, view.after))
    found = torch.empty(count, dtype=numbers.dtype, device=numbers.device)
    for low in range(0, count, RUN):
        index = elements(torch, start + low, min(RUN, count - low), numbers.device)
        found[low : low + len(index)] = numbers.reshape(-1)[slice_numbers(torch, index, view)[0]]
    return found


def _flat(torch: Any, numbers: Tensor) -> Tensor:  # noqa: ANN401 - the module
    return numbers.clone(memory_format=torch.contiguous_format).view(-1)


def of_blocks(torch: Any, flags: Tensor, start: int, count: int, view: SliceView, block: tuple[int, int]) -> Tensor:  # noqa: ANN401
    """Return the flag of the block of each of `count` elements from `start`; `flags` has one per block."""
    grid = flags.reshape(block_grid(view, block))
    if view.before == 1 and start % view.after == 0 and count % view.after == 0:
        first, rows = start // view.after, count // view.after
        row = elements(torch, first, rows, flags.device)
        picked = grid[row // view.slices, row % view.slices // block[0]]
        return picked.repeat_interleave(block[1], 1)[:, : view.after].reshape(-1)
    if view.after == 1 and start % view.slices == 0 and count % view.slices == 0:
        row = elements(torch, start // view.slices, count // view.slices, flags.device)
        picked = grid[row // view.before, :, row % view.before // block[1]]
        return picked.repeat_interleave(block[0], 1)[:, : view.slices].reshape(-1)
    found = torch.empty(count, dtype=flags.dtype, device=flags.device)
    for low in range(0, count, RUN):
        index = elements(torch, start + low, min(RUN, count - low), flags.device)
        found[low : low + len(index)] = flags[block_numbers(torch, index, view, block)]
    return found


def mark_alive(torch: Any, alive: Tensor, nonzero: Tensor, start: int, view: SliceView) -> None:  # noqa: ANN401
    """Set the flags in `alive` (slices + 1) of the slices that have a set flag in `nonzero`, a run from `start`.

    The last flag of `alive` has no meaning.
    """
    cycle = view.slices * view.after
    head = min(-start % cycle, len(nonzero))
    body = (len(nonzero) - head) // cycle * cycle
    if view.before == 1:  # slices follow each other
        cycle, head = view.after, min(-start % view.after, len(nonzero))
        body = (len(nonzero) - head) // cycle * cycle
    for low, part in ((0, nonzero[:head]), (head + body, nonzero[head + body :])):
        for first in range(0, len(part), RUN):
            run = part[first : first + RUN]
            index = elements(torch, start + low + first, len(run), alive.device)
            numbers = slice_numbers(torch, index, view)[0]
            # Entries that are zero set the flag without a meaning: every write to a place is the same.
            alive.index_fill_(0, numbers.where(run, view.total), 1)
    if body:
        _mark_cycles(alive, nonzero[head : head + body], (start + head) // cycle, view)


def _mark_cycles(alive: Tensor, nonzero: Tensor, first: int, view: SliceView) -> None:
    """Set the flags of whole cycles, of which `first` is the number of the first one."""
    if view.before == 1:
        rows = nonzero.reshape(-1, view.after)
        alive[first : first + len(rows)] |= rows.any(1)
        return
    cycles, done = nonzero.reshape(-1, view.slices, view.after), 0
    while done < len(cycles):
        stack, index = divmod(first + done, view.before)
        count = min(view.before - index, len(cycles) - done)
        stacks = (len(cycles) - done) // view.before
        if not index and stacks > 1:  # whole stacks together
            count, size = stacks * view.before, view.slices
            whole = cycles[done : done + count].reshape(stacks, view.before, view.slices, view.after)
            alive[stack * size : (stack + stacks) * size] |= whole.any(3).any(1).flatten()
        else:
            part = cycles[done : done + count].any(2).any(0)
            alive[stack * view.slices : (stack + 1) * view.slices] |= part
        done += count


def _divmod(torch: Any, numbers: Tensor, by: int) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - the module
    if by == 1:
        return numbers, torch.zeros_like(numbers)
    return numbers // by, numbers % by
