"""A law: codes with a scale are pruned where the products are that they stand for."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support.pruning import COUNTED

from prunecli import prune_state_dict
from prunecli.strategies.unstructured import Global

STRATEGIES = {**COUNTED, "lamp": Global(amount=0.5, normalize="lamp"), "rms": Global(amount=0.5, normalize="rms")}


@given(
    name=st.sampled_from(sorted(STRATEGIES)),
    shape=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    block=st.sampled_from([1, 4, 8, 16, 32]),
    seed=st.integers(0, 999),
    coarse=st.booleans(),
)
@settings(max_examples=examples(120))
def test_codes_are_pruned_where_their_products_are(
    *, name: str, shape: tuple[int, int], block: int, seed: int, coarse: bool
) -> None:
    """The zeros of both state_dicts are in the same places, also with many equal products."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(shape, generator=generator)
    codes = (codes.round() if coarse else codes).to(torch.float8_e4m3fn)
    grid = [-(-n // block) for n in shape]
    scale = torch.randint(1, 4, grid, generator=generator).float() if coarse else torch.rand(grid, generator=generator)
    scale += 0 if coarse else 0.01
    spread = scale.repeat_interleave(block, 0).repeat_interleave(block, 1)[: shape[0], : shape[1]]
    plain = torch.randn(7, 9, generator=generator)
    products = {"a.weight": codes.double() * spread.double(), "b.weight": plain.clone()}
    coded = {"a.weight": codes, "a.weight_scale_inv": scale, "b.weight": plain}

    prune_state_dict(products, STRATEGIES[name])
    prune_state_dict(coded, STRATEGIES[name])

    assert torch.equal(coded["a.weight"].float() == 0, products["a.weight"] == 0)
    assert torch.equal(coded["b.weight"], products["b.weight"])
