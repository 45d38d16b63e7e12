"""The decided layouts: what biases, norms, siblings, pairs of experts, names and config.json prove."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.profiles import examples
from torch import nn

from prunecli.checkpoint import OUTSIDE, Checkpoint, Span, TensorInfo, row_major
from prunecli.layout import TensorLayout
from prunecli.layouts.decide import decide, with_layouts

Shapes = dict[str, tuple[int, ...]]

WORDS = [
    "h",
    "0",
    "12",
    "experts",
    "moe",
    "mlp",
    "router",
    "conv",
    "deconv",
    "bn",
    "scale",
    "weight",
    "bias",
    "kernel",
    "c_attn",
    "w1",
    "w2",
    "lora_A",
    "lora_B",
]


def tensor(name: str, shape: tuple[int, ...], unprunable_reason: str | None = None) -> TensorInfo:
    """Make a tensor."""
    return TensorInfo(name, "F32", shape, row_major(shape), 0, Span(0, 1 << 40), unprunable_reason=unprunable_reason)


def decided(shapes: Shapes, model_type: str = "") -> dict[str, TensorLayout]:
    """Decide the layouts of tensors with these shapes."""
    return decide([tensor(name, shape) for name, shape in shapes.items()], model_type)


def of_module(module: nn.Module, prefix: str = "") -> dict[str, TensorLayout]:
    """Decide the layouts of a module's state_dict."""
    return decided({prefix + name: tuple(value.shape) for name, value in module.state_dict().items()})


def gpt2(blocks: int = 2, width: int = 16, *, bias: bool = True) -> Shapes:
    """Return the shapes of GPT-2, whose matrices are [in, out]."""
    shapes: Shapes = {"wte.weight": (40, width), "wpe.weight": (width, width)}
    parts = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width)}
    parts |= {"mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width)}
    for block in range(blocks):
        for part, shape in parts.items():
            shapes[f"h.{block}.{part}.weight"] = shape
            if bias:
                shapes[f"h.{block}.{part}.bias"] = shape[1:]
    return shapes


# --- matrices


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt2_has_inputs_first(prefix: str) -> None:
    """The biases prove the matrices that are not square, and the square one is as its siblings of the same block."""
    layouts = decided({prefix + name: shape for name, shape in gpt2().items()})

    matrices = {name: layout for name, layout in layouts.items() if ".c_" in name and name.endswith("weight")}
    assert {layout.words for layout in matrices.values()} == {"in-out"}
    assert all(layout.proven for layout in matrices.values())
    assert layouts[f"{prefix}h.0.mlp.c_fc.weight"].evidence == "bias has the length of dim 1"
    assert layouts[f"{prefix}h.1.attn.c_proj.weight"].evidence == f"as its siblings {prefix}h.*.attn.c_attn"
    assert layouts[f"{prefix}wte.weight"].role == "embedding"


def test_the_ratio_of_fused_queries_proves_matrices_without_biases() -> None:
    """Queries, keys and values are three outputs for each input, in the order of GPT-2 as in that of Linear."""
    conv1d = decided(gpt2(bias=False))
    linear = decided({name: shape[::-1] for name, shape in gpt2(bias=False).items()})

    for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
        assert conv1d[f"h.0.{part}.weight"].words == "in-out"
        assert linear[f"h.0.{part}.weight"].words == "out-in"


@pytest.mark.parametrize(("model_type", "words"), [("gpt2", "in-out"), ("llama", "out-in"), ("", "out-in")])
def test_config_names_the_architecture(model_type: str, words: str) -> None:
    """Without other evidence, the architecture of config.json decides the modules that are its Conv1D."""
    layouts = decided({"h.0.mlp.c_fc.weight": (8, 8), "head.weight": (8, 8)}, model_type)

    assert layouts["h.0.mlp.c_fc.weight"].words == words
    assert layouts["head.weight"].words == "out-in"


@pytest.mark.parametrize(
    "module",
    [nn.Linear(3, 5), nn.LSTM(4, 6), nn.GRU(4, 6), nn.LSTM(4, 6, proj_size=2), nn.MultiheadAttention(8, 2)],
    ids=lambda module: type(module).__name__,
)
def test_modules_of_torch_have_outputs_first(module: nn.Module) -> None:
    """All matrices of torch's own modules are [out, in]."""
    matrices = {name: layout for name, layout in of_module(module, "net.").items() if layout.role == "matrix"}

    assert matrices
    assert {layout.words for layout in matrices.values()} == {"out-in"}


def test_nothing_proves_a_square_matrix() -> None:
    """A square matrix without siblings is assumed to be a Linear, and the evidence says that it is assumed."""
    layout = decided({"fc.weight": (8, 8), "fc.bias": (8,)})["fc.weight"]

    assert (layout.words, layout.proven) == ("out-in", False)
    assert "assumed" in layout.evidence


def test_siblings_that_disagree_prove_nothing() -> None:
    """A square matrix between matrices of both orders keeps the assumption."""
    shapes = {"b.0.p.weight": (4, 8), "b.0.p.bias": (4,), "b.0.q.weight": (4, 8), "b.0.q.bias": (8,)}

    layouts = decided({**shapes, "b.0.r.weight": (8, 8)})

    assert layouts["b.0.p.weight"].words == "out-in"
    assert layouts["b.0.q.weight"].words == "in-out"
    assert not layouts["b.0.r.weight"].proven


def test_kernels_of_other_libraries_have_inputs_before_outputs() -> None:
    """A tensor named `kernel` has its outputs last and its inputs before them."""
    layouts = decided({"dense.kernel": (4, 8), "conv.kernel": (3, 3, 4, 8)})

    assert (layouts["dense.kernel"].inputs, layouts["dense.kernel"].outputs) == (0, 1)
    assert (layouts["conv.kernel"].inputs, layouts["conv.kernel"].outputs) == (2, 3)


# --- kernels


@pytest.mark.parametrize("groups", [1, 2])
def test_a_bias_proves_a_transposed_convolution(groups: int) -> None:
    """A bias of dim 1 times the groups belongs to a ConvTranspose, whose inputs are dim 0."""
    layout = of_module(nn.ConvTranspose2d(8, 12, 3, groups=groups), "up.")["up.weight"]

    assert (layout.words, layout.groups, layout.proven) == ("in-out", groups, True)


def test_a_grouped_convolution_has_outputs_first() -> None:
    """The bias of a grouped or depthwise Conv has the length of dim 0."""
    for groups in (2, 8):
        layout = of_module(nn.Conv2d(8, 16, 3, groups=groups), "conv.")["conv.weight"]
        assert (layout.words, layout.groups, layout.proven) == ("out-in", 1, True)


def test_a_square_transposed_convolution_is_not_proven() -> None:
    """A square kernel keeps the assumption, also next to proven kernels of a Sequential, which mixes modules."""
    net = nn.Sequential(nn.ConvTranspose2d(16, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 8, 3))

    layouts = of_module(net)

    assert not layouts["0.weight"].proven
    assert layouts["2.weight"].words == "in-out"


def test_two_siblings_of_one_kernel_shape_prove_a_kernel_in_a_sequential() -> None:
    """In a Sequential two proven kernels of the same kernel shape are needed, and none may disagree."""
    kernels = {"f.0": (8, 4, 3, 3), "f.2": (16, 8, 3, 3), "f.4": (16, 16, 3, 3)}
    shapes: Shapes = {f"{name}.weight": shape for name, shape in kernels.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in kernels.items()}

    assert decided(shapes)["f.4.weight"].proven
    assert not decided({**shapes, "f.6.weight": (16, 4, 3, 3), "f.6.bias": (4,)})["f.4.weight"].proven


def test_the_batch_norm_after_a_kernel_counts_its_outputs() -> None:
    """Without biases, the batch norms of a DCGAN generator prove its kernels, and they prove the last one."""
    widths, net = (100, 64, 32, 16), []
    for a, b in pairwise(widths):
        net += [nn.ConvTranspose2d(a, b, 4, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    layouts = of_module(nn.Sequential(*net, nn.ConvTranspose2d(16, 3, 4, bias=False)), "main.")

    kernels = [layout for layout in layouts.values() if layout.role == "kernel"]
    assert [(layout.words, layout.proven) for layout in kernels] == [("in-out", True)] * 4


def test_resnets_are_proven_without_biases() -> None:
    """The kernels of a basic block without biases, square ones too, have outputs first, as their batch norms say."""
    shapes: Shapes = {}
    for layer, (a, b) in enumerate([(16, 16), (16, 32)], 1):
        for conv, inputs in ((1, a), (2, b)):
            shapes[f"layer{layer}.0.conv{conv}.weight"] = (b, inputs, 3, 3)
            shapes[f"layer{layer}.0.bn{conv}.running_mean"] = (b,)

    assert all(layout.proven for layout in decided(shapes).values() if layout.role == "kernel")


def test_a_batch_norm_before_a_kernel_is_no_evidence_against_conv() -> None:
    """In a pre-activation block the norm has the length of the inputs; the kernel stays outputs first."""
    layout = decided({"b.conv1.weight": (32, 16, 3, 3), "b.bn1.running_mean": (16,)})["b.conv1.weight"]

    assert layout.words == "out-in"


@pytest.mark.parametrize("name", ["deconv1.weight", "up.conv_transpose.weight", "ConvTranspose_0.weight"])
def test_a_name_can_say_transposed(name: str) -> None:
    """A square kernel of a module that is named as a transposed convolution has inputs first."""
    assert decided({name: (8, 8, 3, 3)})[name].words == "in-out"
    assert decided({name: (8, 8)})[name].words == "out-in"


# --- experts


class Experts(nn.Module):
    """A stack of fused experts, with matrices [experts, out, in] or [experts, in, out]."""

    def __init__(self, *, transposed: bool, bias: bool) -> None:
        """Make 4 experts of width 8 with 16 hidden units."""
        super().__init__()
        shapes = {"gate_up_proj": (32, 8), "down_proj": (8, 16)}
        for name, (outputs, inputs) in shapes.items():
            matrix = (inputs, outputs) if transposed else (outputs, inputs)
            self.register_parameter(name, nn.Parameter(torch.randn(4, *matrix)))
            if bias:
                self.register_parameter(f"{name}_bias", nn.Parameter(torch.randn(4, outputs)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("transposed", "words"), [(False, "experts out-in"), (True, "experts in-out")])
def test_stacks_of_experts(words: str, *, transposed: bool, bias: bool) -> None:
    """A fused pair proves its own order; biases are no stacks and no weights by name."""
    layouts = of_module(Experts(transposed=transposed, bias=bias), "model.layers.0.mlp.experts.")

    stacks = {name.rpartition(".")[2]: layout for name, layout in layouts.items() if layout.role == "experts"}
    assert set(stacks) == {"gate_up_proj", "down_proj"}
    assert all((layout.words, layout.proven, layout.experts) == (words, True, 0) for layout in stacks.values())
    assert all(layout.not_a_weight is None for layout in stacks.values())


@pytest.mark.parametrize("order", [1, -1])
def test_the_router_proves_stacks_that_are_not_fused(order: int) -> None:
    """The router has the inputs of the first matrix, which are the outputs of the second."""
    shapes = {
        "m.gate.weight": (4, 24),
        "m.experts.w1": (4, *(16, 24)[::order]),
        "m.experts.w2": (4, *(24, 16)[::order]),
    }

    layouts = decided(shapes)

    words = "experts out-in" if order == 1 else "experts in-out"
    assert (layouts["m.experts.w1"].words, layouts["m.experts.w1"].proven) == (words, True)
    assert (layouts["m.experts.w2"].words, layouts["m.experts.w2"].proven) == (words, True)


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("l.block_sparse_moe.input_linear.weight", (8, 32, 16), "experts"),
        ("l.moe.conv.weight", (8, 32, 3), "kernel"),
        ("l.experts.0.conv.weight", (8, 32, 3), "kernel"),
        ("l.experts.gate_up_proj_scale_inv", (8, 32, 16), "kernel"),
        ("l.mlp.conv.weight", (8, 32, 16), "kernel"),
        ("l.experts.gate_up_proj_bias", (8, 1, 32), "kernel"),
    ],
)
def test_a_stack_needs_a_name_and_three_dimensions(name: str, shape: tuple[int, ...], role: str) -> None:
    """The word for experts in the path and dimensions longer than a kernel make a stack."""
    assert decided({name: shape})[name].role == role


@pytest.mark.parametrize("order", [1, -1])
def test_an_embedding_has_the_width_of_the_model(order: int) -> None:
    """Without a router, the largest embedding has the inputs of the first matrix and the outputs of the second."""
    shapes = {"embed_tokens.weight": (100, 24), "type_embedding.weight": (2, 16)}
    shapes |= {"m.experts.w1": (4, *(16, 24)[::order]), "m.experts.w2": (4, *(24, 16)[::order])}

    layouts = decided(shapes)

    words = "experts out-in" if order == 1 else "experts in-out"
    assert [(layouts[f"m.experts.{name}"].words, layouts[f"m.experts.{name}"].proven) for name in ("w1", "w2")] == [
        (words, True)
    ] * 2


@pytest.mark.parametrize(("model_type", "words"), [("gpt_oss", "experts in-out"), ("mixtral", "experts out-in")])
def test_config_names_the_order_of_experts(model_type: str, words: str) -> None:
    """Square stacks without other evidence have the order of their architecture."""
    assert decided({"l.experts.w1": (4, 8, 8)}, model_type)["l.experts.w1"].words == words


# --- what is no weight


@pytest.mark.parametrize(
    ("shapes", "name", "role"),
    [
        ({"ln.weight": (4, 8, 8), "ln.bias": (4, 8, 8)}, "ln.weight", "gain"),
        ({"scale.weight": (4, 8), "scale.bias": (4, 8)}, "scale.weight", "gain"),
        ({"encoder.norm.weight": (4, 1, 1)}, "encoder.norm.weight", "gain"),
        ({"model.22.dfl.conv.weight": (1, 16, 1, 1)}, "model.22.dfl.conv.weight", "constant"),
        ({"stft_conv.weight": (258, 1, 256)}, "stft_conv.weight", "constant"),
        ({"extractor.stft.conv_real.weight": (513, 1, 1024)}, "extractor.stft.conv_real.weight", "constant"),
        ({"criterion.weight": (1, 19)}, "criterion.weight", "constant"),
        ({"heads.loss.0.weight": (1, 19)}, "heads.loss.0.weight", "constant"),
        ({"focalLoss.class_weights": (1, 19)}, "focalLoss.class_weights", "constant"),
        ({"CrossEntropyLoss.weight": (1, 19)}, "CrossEntropyLoss.weight", "constant"),
        ({"a.parametrizations.weight.original1": (8, 8)}, "a.parametrizations.weight.original1", "reparametrized"),
        ({"a.weight_v": (8, 8), "a.weight_g": (8, 1)}, "a.weight_v", "reparametrized"),
    ],
)
def test_gains_and_constants_are_not_weights(shapes: Shapes, name: str, role: str) -> None:
    """A gain has a bias of its own shape or a norm's name; fixed transforms are known by name."""
    layout = decided(shapes)[name]

    assert layout.role == role
    assert layout.not_a_weight is not None


@pytest.mark.parametrize(
    "name",
    [
        *("norm_proj.weight", "input_projection.weight", "normalizer_fc.weight"),
        *("loss.discriminator.main.0.weight", "lossy.weight", "gloss.weight", "loss_head.weight", "class_embed.weight"),
    ],
)
def test_projections_and_modules_of_a_loss_are_weights(name: str) -> None:
    """A matrix that has `norm` or `loss` in its name and is a projection, or inside a module of a loss, is a weight."""
    assert decided({name: (4, 8)})[name].not_a_weight is None


def test_tensors_outside_the_state_dict_keep_their_layout() -> None:
    """The bias of another state_dict in the file is no evidence, and nothing is decided about tensors outside."""
    tensors = (tensor("fc.weight", (4, 8)), tensor("fc.bias", (8,), OUTSIDE))

    checkpoint = with_layouts(Checkpoint(Path("a"), "zip", (), tensors))

    assert not checkpoint.tensors[0].layout.proven
    assert checkpoint.tensors[1] is tensors[1]


@settings(max_examples=examples(300))
@given(
    st.dictionaries(
        st.lists(
            st.sampled_from(WORDS),
            min_size=1,
            max_size=5,
        ).map(".".join),
        st.lists(st.integers(0, 9), max_size=5).map(tuple),
        max_size=12,
    )
)
def test_every_layout_fits_its_tensor(shapes: Shapes) -> None:
    """Whatever the names and shapes are, dimensions exist, differ, and the views have all elements."""
    for name, layout in decided(shapes).items():
        shape = shapes[name]
        for view in (layout.output_view(shape), layout.input_view(shape)):
            if view is not None:
                assert view.stacks * view.before * view.slices * view.after == tensor(name, shape).numel
        if layout.inputs is not None:
            assert layout.outputs != layout.inputs
            assert 0 <= layout.inputs < len(shape)


def test_a_matrix_is_decided_as_if_it_were_alone_with_its_bias() -> None:
    """What is decided about one of many matrices with like names is right for each: biases and shapes may differ."""
    shapes: Shapes = {}
    for number in range(12):
        shapes[f"layers.{number}.fc.weight"] = (20, 10) if number % 2 else (10, 10)
        if number % 3:
            shapes[f"layers.{number}.fc.bias"] = (20,) if number % 2 else (10,)
        shapes[f"layers.{number}.norm{number}.weight"] = (1, 10)

    together = decided(shapes)

    for number in range(12):
        module = f"layers.{number}."
        alone = decided({name: shape for name, shape in shapes.items() if name.startswith(module)})
        for name, layout in alone.items():
            if layout.proven or layout.not_a_weight is not None:
                assert layout == together[name]
    assert together["layers.3.fc.weight"].evidence == "as its siblings layers.*.fc"
    assert together["layers.5.fc.weight"].evidence == "bias has the length of dim 0"
