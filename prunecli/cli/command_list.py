"""The commands: the group, the first line of the help and the examples of each, so that `prune --help` imports none.

This is the one place where a new command says where the help lists it. `prunecli.cli.help` lays the texts out, and
`scripts/man_page.py` makes the man page of them.
"""

from __future__ import annotations

from typing import NamedTuple

PRUNE, LOOK, GATE, FILES, AUTOMATE = "Prune", "Look", "Gate", "Files", "Automate"
GROUPS = (PRUNE, LOOK, GATE, FILES, AUTOMATE)
"""The groups of commands, in the order of `prune --help`."""

ZERO, SHOW, EVALUATE, OPTIONS = "What to zero", "What to show", "What to evaluate", "Options"
TENSORS, OUTPUT, GATES, RUNNING = "Which tensors", "Output and reports", "Gates", "Running"
PANELS = (TENSORS, OUTPUT, GATES, RUNNING)
"""The panels of options in the help of a command. The command's own panel comes first."""


class Example(NamedTuple):
    """A command line that runs, and what it is for. The tests run it where `model.safetensors` and others exist."""

    purpose: str
    line: str


class Command(NamedTuple):
    """A command as the help describes it.

    Attributes:
        group: One of GROUPS.
        line: The first line of its help.
        examples: Two command lines; `-h` shows the first.
        panel: The title of the options that name no panel of their own.
        text: A title and lines that the full help shows before the examples.
    """

    group: str
    line: str
    examples: tuple[Example, ...]
    panel: str = OPTIONS
    text: tuple[str, str] | None = None


RECIPE = """\
# Convolutions lose a quarter of their filters.
[[rule]]
include = "conv*.weight"
strategy = "structured"
amount = 0.25

# Then 80 % of all weights become zero.
[[rule]]
strategy = "global"
amount = "80%"
"""
"""A recipe that `prune run --help` shows."""

COMMANDS = {
    "threshold": Command(
        PRUNE,
        "Zero the weights of magnitude T or less.",
        (
            Example("One threshold for all tensors", "prune threshold model.safetensors --thr 0.01"),
            Example(
                "Half a standard deviation of each tensor", "prune threshold model.pth --thr-std 0.5 -o sparse.pth"
            ),
        ),
        ZERO,
    ),
    "percentile": Command(
        PRUNE,
        "Zero weights up to each tensor's percentile.",
        (
            Example("The smallest 60 % of each tensor, and ties", "prune percentile model.safetensors --q 60"),
            Example("The convolutions only", "prune percentile model.pth --q 90 -i 'conv*.weight' -o sparse.pth"),
        ),
        ZERO,
    ),
    "l1": Command(
        PRUNE,
        "Zero the smallest weights of each tensor.",
        (
            Example("Half of each tensor", "prune l1 model.safetensors --amount 50%"),
            Example("More of large layers, less of small ones", "prune l1 model.pth --amount 0.9 --allocate erk -n"),
        ),
        ZERO,
    ),
    "global": Command(
        PRUNE,
        "Zero the smallest weights of all tensors.",
        (
            Example("80 % of all weights, wherever they are", "prune global model.safetensors --amount 80%"),
            Example("At most 95 % of any tensor", "prune global model.pth --amount 0.9 --max-per-tensor 95% -n"),
        ),
        ZERO,
    ),
    "topk": Command(
        PRUNE,
        "Keep K of every G consecutive weights.",
        (
            Example("2:4 sparsity, which GPUs compute faster", "prune topk model.safetensors --pattern 2:4"),
            Example("The matrices only, measured but not written", "prune topk model.pth --pattern 1:4 -i 'fc*' -n"),
        ),
        ZERO,
    ),
    "structured": Command(
        PRUNE,
        "Zero whole outputs of each tensor.",
        (
            Example(
                "A quarter of the filters, and their biases", "prune structured model.pth --amount 25% --with-bias"
            ),
            Example("By their L1 norm", "prune structured model.safetensors --amount 0.5 --n 1 -i 'conv*'"),
        ),
        ZERO,
    ),
    "block": Command(
        PRUNE,
        "Zero whole blocks of each tensor.",
        (
            Example(
                "Half of the blocks of 4 outputs and 4 inputs", "prune block model.safetensors --shape 4x4 --amount 50%"
            ),
            Example("Ten blocks of each matrix", "prune block model.pth --shape 8x1 --count 10 -i 'fc*' -n"),
        ),
        ZERO,
    ),
    "random": Command(
        PRUNE,
        "Zero weights of each tensor at random.",
        (
            Example("A baseline for comparisons", "prune random model.safetensors --amount 50% --seed 1"),
            Example("Whole outputs at random", "prune random model.pth --amount 0.25 --structured -n"),
        ),
        ZERO,
    ),
    "mask": Command(
        PRUNE,
        "Zero the weights where a mask is 0.",
        (
            Example("A mask from --mask-out", "prune mask model.safetensors --mask mask.safetensors"),
            Example("One tensor of it", "prune mask model.pth --mask mask.safetensors -i fc1.weight -n"),
        ),
        ZERO,
    ),
    "inspect": Command(
        LOOK,
        "Show what is in a checkpoint.",
        (
            Example("Tensors, zeros, ties, leftovers of pruning", "prune inspect model.safetensors"),
            Example("The threshold for each sparsity", "prune inspect model.pth --thresholds -i 'fc*'"),
        ),
        SHOW,
    ),
    "scan": Command(
        LOOK,
        "Show which tensors are most sensitive to pruning.",
        (
            Example("The most sensitive tensors first", "prune scan model.safetensors"),
            Example("The curves as a page", "prune scan model.pth --top 3 --html scan.html"),
        ),
        OUTPUT,
    ),
    "doctor": Command(
        LOOK,
        "Show versions, kernels, devices and disks.",
        (
            Example("For a bug report", "prune doctor"),
            Example("For a program", "prune doctor --json"),
        ),
        OUTPUT,
    ),
    "diff": Command(
        LOOK,
        "Show how two checkpoints differ.",
        (
            Example("Tensor by tensor, in any two formats", "prune diff model.pth model.safetensors"),
            Example("For a program", "prune diff model.safetensors pruned.safetensors --json"),
        ),
        OUTPUT,
    ),
    "check": Command(
        GATE,
        "Exit with 1 unless all conditions hold.",
        (
            Example("Sparse enough, and no NaN", "prune check pruned.safetensors --min-sparsity 50% --finite"),
            Example(
                "Nothing changed but new zeros",
                "prune check pruned.safetensors --only-zeros-added-since model.safetensors",
            ),
        ),
        GATES,
    ),
    "convert": Command(
        FILES,
        "Write a checkpoint in another format.",
        (
            Example("A torch checkpoint as safetensors", "prune convert model.pth converted.safetensors --drop-rest"),
            Example("Shards with an index", "prune convert model.safetensors shards --max-shard-size 500MB"),
        ),
        OUTPUT,
    ),
    "strip": Command(
        FILES,
        "Drop everything but the weights of a training checkpoint.",
        (
            Example("Without the optimizer, at half the size", "prune strip model.pth --to fp16"),
            Example("One part of the model", "prune strip model.safetensors --keep 'fc*' -o fc.safetensors"),
        ),
        OUTPUT,
    ),
    "bake": Command(
        FILES,
        "Fold pruned weights: x_orig * x_mask becomes x.",
        (
            Example("A file saved during pruning, for a plain model", "prune bake masked.pth -o baked.pth"),
            Example("What it would fold", "prune bake masked.pth -n"),
        ),
        OUTPUT,
    ),
    "pack": Command(
        FILES,
        "Compress the weights of a torch file.",
        (
            Example("A smaller file that torch.load reads", "prune pack model.pth"),
            Example("The size it would have, at the highest level", "prune pack model.pth --level 9 -n"),
        ),
        OUTPUT,
    ),
    "unpack": Command(
        FILES,
        "Restore a packed torch file byte for byte.",
        (
            Example("The file that was packed", "prune unpack small.packed.pth"),
            Example("Under another name", "prune unpack small.packed.pth -o restored.pth"),
        ),
        OUTPUT,
    ),
    "run": Command(
        AUTOMATE,
        "Zero the weights that the rules of a recipe choose.",
        (
            Example("The rules in their order", "prune run recipe.toml model.safetensors"),
            Example("What it would zero", "prune run recipe.toml model.pth --dry-run"),
        ),
        ZERO,
        ("A recipe", RECIPE),
    ),
    "search": Command(
        AUTOMATE,
        "Find the largest amount that keeps your metric within a limit.",
        (
            Example(
                "Lose at most 0.01 of the metric that eval.py prints",
                "prune search model.safetensors global --eval 'python eval.py {}' --max-drop 0.01",
            ),
            Example(
                "Five tries, and no checkpoint",
                "prune search model.pth l1 --eval 'python eval.py {}' --max-drop 0.01 --tries 5 -n",
            ),
        ),
        EVALUATE,
    ),
    "sweep": Command(
        AUTOMATE,
        "Show your metric at several amounts.",
        (
            Example(
                "The metric that eval.py prints, at three amounts",
                "prune sweep model.safetensors global --eval 'python eval.py {}' --at 50%,80%,90%",
            ),
            Example(
                "As a table and a plot",
                "prune sweep model.pth l1 --eval 'python eval.py {}' --at 0.5,0.9 --csv sweep.csv --html sweep.html",
            ),
        ),
        EVALUATE,
    ),
}
"""All commands by name, in the order of `prune --help`."""

PRUNING = tuple(name for name, command in COMMANDS.items() if command.panel == ZERO)
"""The commands that prune, with the options that these share."""

EXAMPLES = (
    Example("See what is in a checkpoint", "prune inspect model.safetensors"),
    Example("Zero 80 % of its weights", "prune global model.safetensors --amount 80%"),
    Example("Check the result", "prune check model.pruned.safetensors --min-sparsity 80% --finite"),
)
"""The examples of `prune --help`; the tests run them in this order."""

ENVIRONMENT = (
    ("PRUNE_DEVICE", "The default of --device."),
    ("PRUNE_THREADS", "The default of --threads."),
    ("PRUNECLI_KERNELS", "native or numpy: which kernels compute on the CPU."),
    ("NO_COLOR, FORCE_COLOR", "If not empty: no colour, or colour also without a terminal."),
)
"""The environment variables that the commands read."""

EXIT_CODES = "Exit codes: 0 done, 1 a check failed, 2 wrong usage or input, 130 interrupted."
