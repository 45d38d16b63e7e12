"""The output files of a run that gives its checkpoint another layout: another format, shards, fewer tensors, casts."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from prunecli.errors import Argument, CheckpointError
from prunecli.formats.registry import BY_NAME
from prunecli.io.files import Sink, Source
from prunecli.io.output_files import arranged_files
from prunecli.io.rearranged import Draft, Rearranged
from prunecli.kernels.casts import Lost
from prunecli.text.escape import printable
from prunecli.text.numbers import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.engine.outputs import Outputs
    from prunecli.engine.run import Run
    from prunecli.io.arrangement import Arrangement
    from prunecli.io.files import Input, Output

_NAMES = {"F16": "fp16", "BF16": "bf16"}


@contextmanager
def open_arranged(run: Run, sources: Sequence[Input], outputs: Outputs) -> Iterator[Sequence[Output | None]]:
    """Open the files of the arrangement of `outputs`, and yield an output for each input file.

    All are published together when the block ends without an error. Without a checkpoint to write, the casts are
    measured, if there are any.
    """
    arrangement, output = outputs.arranged, outputs.checkpoint
    if output is None and not arrangement.casts:
        yield [None] * len(sources)
        return
    with ExitStack() as stack:
        sinks = None
        if output is not None:
            force = outputs.force or outputs.in_place
            folder, direct = run.checkpoint.path, run.writes_around_cache(arrangement.size)
            mode = next(source.mode for source in sources if isinstance(source, Source))
            replaced = run.checkpoint.own_files if outputs.in_place else ()
            opened = arranged_files(arrangement, folder, output, mode=mode, force=force, replaced=replaced)
            files = stack.enter_context(opened)
            sinks = [Sink(file, direct=direct and not isinstance(output, int)) for file in files]
            for sink in sinks:
                stack.callback(sink.close)
        draft = Draft(arrangement, sinks)
        draft.begin()
        changed = {(target.file, target.span) for target in run.targets}
        yield [
            Rearranged(draft, number, source, {span for file, span in changed if file == number})
            for number, source in enumerate(sources)
        ]


def check_written(outputs: Outputs, sinks: Sequence[Output | None]) -> list[str]:
    """Return warnings about what the casts lost, after checking the files that were written.

    Raises CheckpointError if finite weights became infinite and the request does not allow it, or if a file does not
    have the tensors that it is to have.
    """
    draft = next((sink.draft for sink in sinks if isinstance(sink, Rearranged)), None)
    if draft is None:
        return []
    if draft.sinks is not None:
        _check_files(outputs.arranged, draft.sinks)
    return list(_lost(outputs.arranged, draft, allow_overflow=outputs.allow_overflow))


def _check_files(arrangement: Arrangement, sinks: Sequence[Sink]) -> None:
    """Read the headers of the new files with their own reader."""
    found = set()
    for sink, output in zip(sinks, arrangement.outputs, strict=True):
        with sink.file.opened() as fd, os.fdopen(os.dup(fd), "rb") as stream:
            listing = BY_NAME[arrangement.format].read(stream, output.name or "the output", arrangement.keys)
        found |= {(tensor.name, tensor.dtype, tensor.shape) for tensor in listing.tensors}
    wrong = sorted(one[0] for one in found ^ arrangement.expected)
    if wrong:
        raise CheckpointError(f"the output cannot be written safely: {printable(repr(wrong[0]))} would change")


def _lost(arrangement: Arrangement, draft: Draft, *, allow_overflow: bool) -> Iterator[str]:
    lost = {number: one for number, one in sorted(draft.lost.items()) if one.overflowed or one.vanished}
    total = sum(lost.values(), Lost())
    if not lost:
        return
    to = _NAMES[next(arrangement.moves[number].dtype for number in lost)]
    if total.overflowed:
        number, most = max(lost.items(), key=lambda pair: pair[1].overflowed)
        name = printable(repr(arrangement.moves[number].name))
        many = f"{counted(total.overflowed, 'weight')} beyond the range of {to}"
        message = f"{many} would become infinite, {most.overflowed:,} of them in {name}"
        if not allow_overflow:
            hint = (Argument("to", "bf16"), " has the range of float32, or ", Argument("allow_overflow", True))
            raise CheckpointError(message, hint=hint if to == "fp16" else Argument("allow_overflow", True))
        yield message.replace("would become", "became")
    if total.vanished:
        number, most = max(lost.items(), key=lambda pair: pair[1].vanished)
        name = printable(repr(arrangement.moves[number].name))
        yield (
            f"{counted(total.vanished, 'weight')} too small for {to} became zero, {most.vanished:,} of them in {name}"
        )
