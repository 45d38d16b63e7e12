"""The command `prune bake`: fold pruned weights, and print a table of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from prunecli.cli import options, rewriting
from prunecli.cli.value_options import flag_option, text_option
from prunecli.text.numbers import format_bytes

if TYPE_CHECKING:
    from prunecli.baking.bake import BakeResult
    from prunecli.text.tables import Block

Output = Annotated[
    str | None, text_option("-o --output", "PATH", "The result; `-` is standard output. [default: CKPT.baked.EXT]")
]
Json = Annotated[bool, flag_option("--json", "Print the folded weights as JSON instead of the table.")]
DryRun = Annotated[bool, flag_option("-n --dry-run", "Print the weights that would be folded, and write no file.")]


def bake(
    ckpt: options.LocalCkpt,
    *,
    output: Output = None,
    key: options.Key = None,
    json: Json = False,
    dry_run: DryRun = False,
    force: options.Force = False,
    in_place: options.InPlace = False,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Fold pruned weights: x_orig * x_mask becomes x.

    For checkpoints that were saved while torch.nn.utils.prune was active. x replaces x_orig at its place, the mask is
    dropped, and all other bytes are copied unchanged.
    """
    rewriting.refuse_pipes(ckpt, output, json=json, dry_run=dry_run, in_place=in_place)

    from prunecli.baking.bake import bake as fold
    from prunecli.text.tables import write_blocks

    progress = not (quiet or no_progress)
    baked = rewriting.rewritten(
        fold, ckpt, output, dry_run=dry_run, progress=progress, key=key, force=force, in_place=in_place
    )
    rewriting.print_result(baked, lambda stream: write_blocks(_blocks(baked), stream), json=json, quiet=quiet)
    return 0


# --- the printed result


def _blocks(baked: BakeResult) -> tuple[Block, Block]:
    from prunecli.text.escape import printable
    from prunecli.text.numbers import format_shape, percent
    from prunecli.text.tables import Block, Column

    columns = (
        Column("weight", fold=12),
        Column("dtype", optional=2),
        Column("shape", optional=1),
        Column("weights", right=True),
        Column("masked", right=True, optional=3),
        Column("sparsity", right=True),
    )
    rows = tuple(
        (
            printable(weight.name),
            weight.dtype,
            format_shape(weight.shape),
            f"{weight.numel:,}",
            f"{weight.masked:,}",
            percent(weight.sparsity if weight.numel else None),
        )
        for weight in baked.weights
    )
    return Block(_sentence(baked), lines=tuple(f"note      {note}" for note in baked.notes)), Block("", columns, rows)


def _sentence(baked: BakeResult) -> str:
    from prunecli.text.numbers import counted, percent

    numel, zeros = sum(weight.numel for weight in baked.weights), sum(weight.zeros for weight in baked.weights)
    verb = "folded" if baked.output_path is not None else "would be folded"
    folded = f"{counted(len(baked.weights), 'tensor')} {verb}, {percent(zeros / numel if numel else None)} of"
    sizes = f"{format_bytes(baked.input_bytes)} before, {format_bytes(baked.output_bytes)} after"
    return f"{folded} {counted(numel, 'weight')} zero, {sizes}{rewriting.destination(baked)}"
