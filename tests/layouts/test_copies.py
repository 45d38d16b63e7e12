"""Copies of the weights, recognised by name."""

from __future__ import annotations

import pytest

from prunecli.layouts.copies import ema_prefixes, is_ema, is_master


@pytest.mark.parametrize(
    "key",
    [
        "ema",
        "state_dict_ema",
        "model_ema",
        "params_ema",
        "g_ema",
        "G_ema",
        "ema_state_dict",
        "ema.module",
        "EMA",
        "netEMA",
        "shadow_params",
    ],
)
def test_ema_copies(key: str) -> None:
    """One of the words is `ema`."""
    assert is_ema(key)


@pytest.mark.parametrize("key", ["model", "schema", "cinema", "emails", "remaining", "SCHEMA", "emanet", ""])
def test_other_keys(key: str) -> None:
    """Words that contain the three letters are no EMA copies."""
    assert not is_ema(key)


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.fp32_flat_groups.0",
        "optimizer.optimizer_state_dict.single_partition_of_fp32_groups.0",
        "optimizer.fp32_groups_flat.0",
        "optimizer.fp32_from_fp16_params.0.3",
        "optimizer.fp32_from_fp16.0.3",
        "optimizer.state.7.master_param",
        "master_params.3",
        "optimizer.param_groups.0.master.1",
        "optimizer.master_weights.0",
    ],
)
def test_masters(name: str) -> None:
    """These are the names of DeepSpeed, Megatron, apex, Transformer Engine and fused Adam."""
    assert is_master(name)


@pytest.mark.parametrize("name", ["optimizer.state.0.exp_avg", "mastery.weight", "encoder.weight", "fp32.weight"])
def test_other_tensors(name: str) -> None:
    """Moments and weights are no masters."""
    assert not is_master(name)


def test_an_ema_prefix_needs_the_weights_that_it_is_a_copy_of() -> None:
    """Most of its names are those of other tensors, with or without their first part and dots."""
    plain = ["model.diffusion_model.0.weight", "model.diffusion_model.0.bias", "first_stage_model.weight"]

    assert ema_prefixes([*plain, "model_ema.diffusion_model0weight", "model_ema.decay"]) == {"model_ema"}
    assert ema_prefixes(["fc.weight", "ema.fc.weight"]) == {"ema"}
    assert ema_prefixes([*plain, "ema.conv.weight", "ema.gn.weight"]) == frozenset()
    assert ema_prefixes(["ema.fc.weight", "ema.fc.bias"]) == frozenset()
