"""Layouts of modules that are built from others: what their names and shapes must not prove, and what they do."""

from __future__ import annotations

import pytest
from layouts.test_decide import Shapes, decided, gpt2

from prunecli.layouts.decide import HALF_OF_LORA


def with_biases(shapes: Shapes) -> Shapes:
    """Return the shapes with a bias of the length of dim 0 for each weight."""
    return shapes | {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}


# --- siblings


def test_matrices_in_a_block_of_conv1d_can_have_outputs_first() -> None:
    """Adapters of Linear in the blocks of GPT-2 keep their order; the square matrix is as others of its own name."""
    adapters: Shapes = {f"h.{n}.adapter.down.weight": (4, 16) for n in range(2)}
    layouts = decided(gpt2() | with_biases(adapters))

    assert layouts["h.0.adapter.down.weight"].words == "out-in"
    assert layouts["h.1.attn.c_proj.weight"].words == "in-out"
    assert layouts["h.1.attn.c_proj.weight"].evidence == "as its siblings h.*.mlp.c_proj"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("lora_A.default.weight", "lora_B.default.weight"),
        ("lora_down.weight", "lora_up.weight"),
        ("lora.down.weight", "lora.up.weight"),
    ],
)
def test_the_two_matrices_of_lora_prove_each_other(a: str, b: str) -> None:
    """Both are Linear, also in a block of Conv1D, and they are no weights of their own."""
    layouts = decided(gpt2() | {f"h.0.attn.c_proj.{a}": (4, 16), f"h.0.attn.c_proj.{b}": (16, 4)})

    for half in (a, b):
        layout = layouts[f"h.0.attn.c_proj.{half}"]
        assert (layout.words, layout.proven, layout.not_a_weight) == ("out-in", True, HALF_OF_LORA)
    assert layouts["h.0.attn.c_proj.weight"].words == "in-out"


def test_one_lora_matrix_alone_is_a_weight() -> None:
    """Without its other half, nothing says that a tensor of this name is half of a product."""
    assert decided({"q.lora_A.weight": (4, 16)})["q.lora_A.weight"].not_a_weight is None


# --- transposed convolutions by name


@pytest.mark.parametrize(
    "shapes",
    [
        {"conv_transform.weight": (16, 16, 3, 3)},
        {"conv_transition.weight": (16, 16, 1, 1)},
        {"convtrunk.weight": (16, 16, 3, 3)},
        {"deconv_block.conv.weight": (32, 16, 3, 3)},
        {"deconv1.1.weight": (16, 16, 3, 3)},
        {"deconv_layers.0.weight": (16, 64, 4, 4)},
        {"transpose_blocks.mix.conv.weight": (16, 16, 3, 3)},
    ],
)
def test_names_that_do_not_say_transposed(shapes: Shapes) -> None:
    """Convolutions of similar names, in transposing modules, and those with a bias that contradicts, stay Conv."""
    for name in shapes:
        assert decided(with_biases(shapes))[name].words == "out-in"


@pytest.mark.parametrize(
    ("name", "size"),
    [("deconv_layers.3", 4), ("deconv", 3), ("up.deconv2d", 3), ("ConvTranspose2d_1", 3), ("d.convtr", 7)],
)
def test_names_that_say_transposed(name: str, size: int) -> None:
    """A square kernel is transposed by its module's name; in a Sequential, only an even kernel is."""
    layout = decided({f"{name}.weight": (16, 16, size, size)})[f"{name}.weight"]

    assert (layout.words, layout.proven) == ("in-out", True)


def test_a_batch_norm_before_a_module_that_may_be_transposed_proves_nothing() -> None:
    """A ConvTranspose `up1` after `bn1` has the length of the norm in dim 0, as a Conv before it has."""
    layouts = decided({"up1.weight": (32, 16, 3, 3), "bn1.running_mean": (32,), "conv.weight": (8, 4, 3, 3)})

    assert not layouts["up1.weight"].proven
    assert not layouts["conv.weight"].proven


# --- experts


def test_kernels_of_a_single_expert_are_no_stacks() -> None:
    """`expert_0` is one expert, and its convolution is a kernel; so is one of `experts.0`, however long."""
    shapes: Shapes = {"experts.expert_0.conv.weight": (24, 16, 3), "experts.0.mix.weight": (24, 16, 31)}

    assert {layout.role for layout in decided(shapes).values()} == {"kernel"}


def test_a_router_proves_a_stack_whose_name_says_nothing() -> None:
    """JetMoE calls its stacks `mlp.input_linear`; the router has an output for each expert and their inputs."""
    shapes: Shapes = {"l.mlp.input_linear.weight": (4, 48, 16), "l.mlp.output_linear.weight": (4, 16, 24)}
    layouts = decided(shapes | {"l.mlp.router.layer.weight": (4, 16)})

    assert {layouts[name].words for name in shapes} == {"experts out-in"}
    assert {layout.role for layout in decided(shapes).values()} == {"kernel"}


def test_rows_of_all_experts_are_weights() -> None:
    """DBRX has w1 and v1 [experts * hidden, in], and w2 of which each expert has [hidden, out]."""
    path = "blocks.0.ffn.experts.mlp."
    shapes: Shapes = {path + name: (4 * 24, 16) for name in ("w1", "v1", "w2")}
    layouts = decided(shapes | {"blocks.0.ffn.router.layer.weight": (4, 16)})

    assert [layouts[name].words for name in shapes] == ["out-in", "out-in", "in-out"]
    assert all(layouts[name].proven and layouts[name].not_a_weight is None for name in shapes)
    second = layouts[f"{path}w2"].output_view((96, 16))
    assert second is not None
    assert (second.stacks, second.before, second.slices) == (4, 24, 16)
    assert decided(shapes)[f"{path}w1"].not_a_weight is not None


@pytest.mark.parametrize("name", ["experts.shared.w2.weight", "shared.w2"])
def test_matrices_of_one_expert_are_not_rows_of_all(name: str) -> None:
    """A Linear next to the router, or a parameter without a name for experts, is as wide as the model by chance."""
    layouts = decided({f"l.mlp.{name}": (16, 16), "l.mlp.router.weight": (4, 16)})

    assert not layouts[f"l.mlp.{name}"].proven


@pytest.mark.parametrize(
    ("shape", "bias", "words"),
    [((7, 8, 4), (7, 4), "experts in-out"), ((7, 8, 4), (7, 8), "experts out-in"), ((7, 8, 4), (8, 4), "out-in")],
)
def test_a_bias_for_each_matrix_makes_a_stack(shape: tuple[int, ...], bias: tuple[int, ...], words: str) -> None:
    """An ensemble of Linear has a bias [members, outputs]."""
    assert decided({"nn1.weight": shape, "nn1.bias": bias})["nn1.weight"].words == words


# --- kernels of other libraries


@pytest.mark.parametrize(
    ("shape", "length", "dims"), [((30, 8, 4), 4, (2, 1)), ((3, 3, 8, 4), 4, (3, 2)), ((4, 2, 8), 8, (1, 0))]
)
def test_the_bias_of_the_last_dimension(shape: tuple[int, ...], length: int, dims: tuple[int, int]) -> None:
    """RGCN has [relations, in, out]; a bias that is a multiple of dim 1 can be that of a grouped ConvTranspose."""
    layout = decided({"conv.weight": shape, "conv.bias": (length,)})["conv.weight"]

    assert (layout.outputs, layout.inputs, layout.proven) == (*dims, True)


@pytest.mark.parametrize(
    ("shapes", "dims"),
    [
        ({"conv2d_transpose.kernel": (3, 3, 8, 4), "conv2d_transpose.bias": (8,)}, (2, 3)),  # Keras
        ({"ConvTranspose_0.kernel": (3, 3, 8, 4), "ConvTranspose_0.bias": (4,)}, (3, 2)),  # Flax
        ({"conv.kernel": (3, 8, 4), "conv.bias": (4,)}, (2, 1)),
        ({"dense.kernel": (8, 8), "dense.bias": (8,)}, (1, 0)),
        ({"query.kernel": (8, 2, 4), "query.bias": (2, 4)}, (2, 0)),
        ({"query.kernel": (8, 2, 4)}, None),
        ({"conv2d_transpose.kernel": (3, 3, 8, 8), "conv2d_transpose.bias": (8,)}, None),
    ],
)
def test_kernels_of_keras_and_flax(shapes: Shapes, dims: tuple[int, int] | None) -> None:
    """The bias decides; without one, kernels of several heads are not proven, and square transposed ones neither."""
    layout = decided(shapes)[next(iter(shapes))]

    assert (layout.outputs, layout.inputs) == dims if dims else not layout.proven


# --- other shapes


def test_a_module_with_a_bias_is_no_embedding() -> None:
    """DETR calls its classifier `class_embed`, and Stable Diffusion an MLP `time_embed`."""
    layouts = decided(with_biases({"class_embed.weight": (92, 16), "time_embed.0.weight": (64, 16)}))

    assert {layout.role for name, layout in layouts.items() if "weight" in name} == {"matrix"}
    assert decided({"query_embed.weight": (100, 16)})["query_embed.weight"].role == "embedding"


def test_modulated_convolutions_have_a_dimension_before_the_outputs() -> None:
    """StyleGAN2 stores [1, out, in, k, k]; a Conv3d with one output is [1, in, k, k, k]."""
    layouts = decided({"conv.weight": (1, 16, 32, 3, 3), "last.weight": (1, 32, 3, 3, 3)})

    assert (layouts["conv.weight"].outputs, layouts["conv.weight"].inputs) == (1, 2)
    assert (layouts["last.weight"].outputs, layouts["last.weight"].inputs) == (0, 1)


def test_scales_of_channels_are_gains() -> None:
    """A `layer_scale` of shape [channels, 1, 1] is a vector; a matrix of this name is not."""
    layouts = decided({"b.layer_scale_1.weight": (8, 1, 1), "c.scale.weight": (8, 4)})

    assert layouts["b.layer_scale_1.weight"].role == "gain"
    assert layouts["c.scale.weight"].not_a_weight is None
