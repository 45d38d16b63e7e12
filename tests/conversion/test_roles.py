"""The roles of what goes when a checkpoint is stripped."""

from __future__ import annotations

import pytest

from prunecli.conversion.roles import role_of, unwrapped_names


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model_ema.fc.weight", "EMA"),
        ("single_partition_of_fp32_groups.0", "fp32 masters"),
        ("optimizer.fp32_from_fp16.0", "fp32 masters"),
        ("grads.fc.weight", "gradients"),
        ("lr_schedulers", "scheduler"),
        ("optimizer_states.0.state.3.exp_avg", "optimizer"),
        ("opt_g.state.0.m", "optimizer"),
        ("callbacks", "training state"),
        ("adoption", "other"),
        ("discriminator.weight", "other"),
    ],
)
def test_roles(name: str, role: str) -> None:
    """The name of an entry says what it is for."""
    assert role == role_of(name)


def test_a_prefix_of_all_names_goes_and_a_module_of_some_stays() -> None:
    """`module.` is a prefix only if every name has it; the parts of other wrappers go wherever they are."""
    assert unwrapped_names(["module.module.a", "module.module.b"]) == {"module.module.a": "a", "module.module.b": "b"}
    assert unwrapped_names(["module.a", "b._orig_mod.c", "_orig_mod"]) == {"b._orig_mod.c": "b.c"}
