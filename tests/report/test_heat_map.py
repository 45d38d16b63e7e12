"""Heat maps of models with numbered layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.reports import row

from prunecli.report.heat_map import KINDS, LAYERS, LINES, heat_maps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.report.model import Row

KIND = ("attn.q.weight", "mlp.up.weight")


def parts(rows: Sequence[Row]) -> list[tuple[str, int, int]]:
    """Return the zeros and the weights of each row."""
    return [(one.name, one.zeros_after or 0, one.numel) for one in rows]


def test_a_line_for_each_layer_and_a_column_for_each_kind() -> None:
    """Layers are in numeric order, and a tensor that a layer lacks is None."""
    rows = [
        row(f"h.{layer}.{kind}", 100, layer)
        for layer in (10, 2, 0, 1)
        for kind in KIND
        if (layer, kind) != (1, KIND[1])
    ]

    (found,) = heat_maps(parts(rows))

    assert (found.stem, found.kinds) == ("h", KIND)
    assert found.lines == ((0, (0, 0)), (1, (0.01, None)), (2, (0.02, 0.02)), (10, (0.1, 0.1)))
    assert [found.heat(part) for part in (0, 0.02, 0.1)] == [1, 3, 10]


def test_experts_of_a_layer_are_summed_up() -> None:
    """Numbers after the layer's do not make kinds of their own."""
    rows = [row(f"h.{n}.experts.{e}.{kind}", 100, 50 * e) for n in range(LAYERS) for e in (0, 1) for kind in ("a", "b")]

    (found,) = heat_maps(parts(rows))

    assert found.kinds == ("experts.#.a", "experts.#.b")
    assert {part for _, line in found.lines for part in line} == {0.25}


def test_models_without_many_layers_have_no_map() -> None:
    """Few layers, one kind, and thousands of layers or kinds are no map."""
    few = [row(f"h.{n}.{kind}") for n in range(LAYERS - 1) for kind in KIND]
    one = [row(f"h.{n}.weight") for n in range(LAYERS)]
    layers = [row(f"h.{n}.{kind}") for n in range(LINES + 1) for kind in KIND]
    kinds = [row(f"h.{n}.k{kind}") for n in range(LAYERS) for kind in range(KINDS + 1)]

    assert [heat_maps(parts(rows)) for rows in (few, one, layers, kinds, [row("weight")], [])] == [[]] * 6


def test_the_largest_stem_comes_first() -> None:
    """Encoder and decoder have a map each."""
    rows = [
        row(f"{stem}.{n}.{kind}", size) for stem, size in (("enc", 10), ("dec", 100)) for n in range(5) for kind in KIND
    ]

    assert [found.stem for found in heat_maps(parts(rows))] == ["dec", "enc"]
