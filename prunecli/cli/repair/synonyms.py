"""What people call the commands and the options, in other tools and in papers."""

from __future__ import annotations

COMMANDS = {
    "magnitude": "l1",
    "l1-unstructured": "l1",
    "unstructured": "l1",
    "local": "l1",
    "layerwise": "l1",
    "wanda": "l1",
    "global-unstructured": "global",
    "thr": "threshold",
    "quantile": "percentile",
    "top-k": "topk",
    "nm": "topk",
    "n-m": "topk",
    "semi-structured": "topk",
    "ln-structured": "structured",
    "channel": "structured",
    "channels": "structured",
    "filter": "structured",
    "filters": "structured",
    "blocks": "block",
    "random-unstructured": "random",
    "apply-mask": "mask",
    "recipe": "run",
    "ls": "inspect",
    "list": "inspect",
    "show": "inspect",
    "info": "inspect",
    "stats": "inspect",
    "sensitivity": "scan",
    "verify": "check",
    "test": "check",
    "compare": "diff",
    "remove": "bake",
    "fold": "bake",
    "tune": "search",
    "quantize": "",
    "quantise": "",
}
"""Other names of commands; "" for what no command does, although its name is similar to one."""

_AMOUNT = ("amount", "min_sparsity")
OPTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("sparsity", "ratio", "fraction", "rate", "level", "percent", "percentage", "amt", "prune-ratio"), _AMOUNT
    ),
    **dict.fromkeys(("pruning-ratio", "prune-amount", "sparsity-ratio", "target-sparsity", "prune-rate"), _AMOUNT),
    "percentile": ("q", "amount"),
    "quantile": ("q", "amount"),
    "number": ("count",),
    "num": ("count",),
    "k": ("keep", "count"),
    **dict.fromkeys(("threshold", "thresh", "cutoff", "min-magnitude", "t", "value"), ("thr",)),
    **dict.fromkeys(("std", "sigma", "thr-sigma", "threshold-std"), ("thr_std",)),
    **dict.fromkeys(("n-m", "nm", "sparsity-pattern", "m-n"), ("pattern",)),
    **dict.fromkeys(("block", "block-size", "block-shape", "blocksize", "tile", "size"), ("shape",)),
    **dict.fromkeys(("axis", "dimension"), ("dim",)),
    **dict.fromkeys(("norm", "ord", "ln", "p"), ("n", "normalize")),
    **dict.fromkeys(("bias", "biases"), ("with_bias",)),
    "random-seed": ("seed",),
    "granularity": ("scope",),
    **dict.fromkeys(("output-file", "output-path", "out", "outfile", "out-file", "save", "save-to", "to"), ("output",)),
    **dict.fromkeys(("dst", "destination", "output-dir", "result"), ("output",)),
    **dict.fromkeys(("overwrite", "yes", "y", "replace"), ("force",)),
    "inplace": ("in_place",),
    **dict.fromkeys(("dry", "simulate", "what-if", "no-write"), ("dry_run",)),
    **dict.fromkeys(("layer", "layers", "name", "names", "tensor", "tensors", "filter", "only"), ("include",)),
    **dict.fromkeys(("modules", "match", "params", "parameters"), ("include",)),
    **dict.fromkeys(("skip", "ignore", "except", "without", "excludes"), ("exclude",)),
    **dict.fromkeys(("jobs", "j", "workers", "num-threads", "num-workers", "cpus"), ("threads",)),
    "log": ("report",),
    "report-file": ("report",),
    "mask-file": ("mask", "mask_in"),
    "masks": ("mask", "mask_in"),
    "save-mask": ("mask_out",),
    "state-dict": ("key",),
    "eval-cmd": ("evaluate",),
    "evaluate": ("evaluate",),
    "command": ("evaluate",),
    "cmd": ("evaluate",),
    "amounts": ("at",),
    "max-loss": ("max_drop",),
    "drop": ("max_drop",),
}
"""Other names of options: the parameters that they can mean, the likeliest first."""

DEVICES = {"gpu": "cuda", "cuda": "cuda", "cpu": "cpu", "mps": "mps", "xpu": "xpu"}
"""Flags that name a device."""

KEPT = ("density", "keep", "kept", "keep-ratio", "keep-rate", "keep-fraction", "keep-percent", "remaining", "retain")
"""Options for the part of the weights that stays."""

CHECKPOINTS = ("ckpt", "checkpoint", "model", "model-path", "input", "input-file", "file", "path", "weights", "m", "c")
"""Options that name the checkpoint, which is an argument here."""

EXAMPLES = {
    "amount": "0.5",
    "count": "1000",
    "thr": "0.1",
    "thr_std": "0.5",
    "q": "60",
    "keep": "2",
    "group": "4",
    "pattern": "2:4",
    "shape": "4x4",
    "dim": "0",
    "n": "2",
    "seed": "0",
    "min_dim": "2",
    "min_numel": "1000",
    "min_per_tensor": "0.1",
    "max_per_tensor": "0.9",
    "min_sparsity": "0.5",
    "max_sparsity": "0.9",
    "min_tensor_sparsity": "0.1",
    "max_tensor_sparsity": "0.95",
    "device": "cuda",
    "threads": "2",
    "top": "10",
    "include": "*.weight",
    "exclude": "*.bias",
    "output": "OUTPUT",
    "report": "report.json",
    "mask_out": "mask.safetensors",
    "evaluate": "python eval.py {}",
    "max_drop": "0.01",
    "tolerance": "0.01",
    "tries": "5",
    "at": "0.5,0.8,90%",
}
"""A value for each option that is given without one."""
