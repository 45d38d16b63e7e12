"""`prune check`: what is found is what torch finds, in every container, and the exit code says it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support import CONTAINERS, SHARED, bits, chosen, make_checkpoint, make_weights
from support.reports import written

from prunecli.cli import main as cli
from prunecli.cli.check import check as command
from prunecli.engine.measure import conforms
from prunecli.errors import CheckpointError, SelectionError, UsageError
from prunecli.inspection import group_counts as counting
from prunecli.inspection.check import Finding, check
from prunecli.inspection.check_text import write_findings
from prunecli.inspection.conditions import Finite, NoAllZero, OnlyZerosAdded, Pattern, SameStructure, Sparsity
from prunecli.report.gates import Bound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from support import Weights


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs `prune check` and returns its exit code and what it printed."""
    registered = [info for info in cli.app.registered_commands if info.name != "check"]
    monkeypatch.setattr(cli.app, "registered_commands", registered)
    cli.app.command("check")(command)

    def call(*args: object) -> tuple[int, str, str]:
        code = cli.main(["check", *map(str, args)])
        return code, *capsys.readouterr()

    return call


def sparse_weights() -> Weights:
    """Return weights of which about every second is zero, of either sign."""
    weights = make_weights(3)
    for name in chosen(weights):
        flat = weights[name].reshape(-1)
        flat[::2] = 0.0
        flat[::4] = -0.0
    return weights


def store(folder: Path, **tensors: torch.Tensor) -> Path:
    """Write tensors as safetensors; a double underscore in a name is a dot."""
    path = folder / "model.safetensors"
    save_file({name.replace("__", "."): t for name, t in tensors.items()}, path)
    return path


def failed(findings: Sequence[Finding]) -> list[str | None]:
    """Return the tensors that fail."""
    return [finding.tensor for finding in findings if not finding.holds]


# --- zeros


def test_zeros_are_those_that_torch_counts_in_every_container(container: str, tmp_path: Path) -> None:
    """The bound that is the sparsity itself holds from both sides, and one weight more or less fails."""
    weights = sparse_weights()
    path = make_checkpoint(container, tmp_path, weights)
    names = chosen(weights)
    zeros, numel = sum(int((weights[n] == 0).sum()) for n in names), sum(weights[n].numel() for n in names)

    def holds(fraction: float, *, upper: bool) -> bool:
        (finding,) = check(path, [Sparsity(Bound(fraction, upper))])
        assert f"({zeros:,} of {numel:,}" in finding.got
        return finding.holds

    assert holds(zeros / numel, upper=False)
    assert holds(zeros / numel, upper=True)
    assert not holds((zeros + len(names) + 1) / numel, upper=False)
    assert not holds((zeros - len(names) - 1) / numel, upper=True)


def test_each_tensor_is_judged_by_itself(tmp_path: Path) -> None:
    """The condition on every tensor names those that fail; together they may hold."""
    path = store(tmp_path, a__weight=torch.zeros(4, 4), b__weight=torch.ones(4, 4))

    (together,) = check(path, [Sparsity(Bound(0.5))])
    each = check(path, [Sparsity(Bound(0.5), each=True)])

    assert together.holds
    assert failed(each) == ["b.weight"]
    assert failed(check(path, [Sparsity(Bound(0.5, upper=True), each=True)])) == ["a.weight"]
    assert check(path, [Sparsity(Bound(1.0, upper=True), each=True)]) == (
        Finding(
            "--max-tensor-sparsity 100%", True, None, "each at most 100%", "100.0% (16 of 16) at most, in a.weight"
        ),
    )


def test_a_pattern_narrows_a_bound(tmp_path: Path) -> None:
    """`GLOB=S` is over the tensors that match, together; one that matches nothing is an error and not a success."""
    path = store(tmp_path, enc__weight=torch.zeros(4, 4), dec__weight=torch.ones(4, 4))

    assert failed(check(path, [Sparsity(Bound(1.0), of="enc.*")])) == []
    assert failed(check(path, [Sparsity(Bound(0.1), of="re:^dec")])) == [None]
    with pytest.raises(SelectionError, match=r"the max sparsity pattern 'encoder\.\*' matches none"):
        check(path, [Sparsity(Bound(0.1, upper=True), of="encoder.*")])


def test_the_fnuz_nan_is_no_zero(tmp_path: Path) -> None:
    """The pattern of -0.0 is NaN in the fnuz formats: not a zero, and not finite."""
    patterns = torch.tensor([[0x80, 0x00, 0x01, 0x7F]], dtype=torch.uint8)
    path = store(tmp_path, w__weight=patterns.view(torch.float8_e4m3fnuz))

    zero, finite = check(path, [Sparsity(Bound(0.25, upper=True)), Finite()])

    assert zero.got == "25.0% (1 of 4)"
    assert (finite.holds, finite.got) == (False, "1 NaN or infinite, first at [0, 0]")


# --- groups


@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    keep=st.integers(0, 5),
    group=st.integers(1, 6),
    dim=st.integers(-4, 3),
    window=st.sampled_from([1, 3, 16, 1 << 18]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_full_groups_are_those_that_a_loop_finds(
    monkeypatch: pytest.MonkeyPatch, shape: list[int], keep: int, group: int, dim: int, window: int, seed: int
) -> None:
    """For every shape, group, dim and run, the groups with too many non-zeros and the first of them are found."""
    monkeypatch.setattr(counting, "RUN", window)
    dim %= len(shape)
    w = np.random.default_rng(seed).integers(0, 2, shape).astype(np.float32)
    tensor = TensorOf(w)

    found = counting.full_groups(counting.NumpyOps(), tensor.info, tensor.read, (keep, group), dim)

    rows = np.moveaxis(np.arange(w.size).reshape(shape), dim, -1).reshape(-1, shape[dim])
    groups = [row[at : at + group] for row in rows for at in range(0, len(row), group)]
    full = {int(g[0]): int(np.count_nonzero(w.reshape(-1)[g])) for g in groups}
    full = {place: count for place, count in full.items() if count > keep}
    first = min(full, default=None)
    assert (found.groups, found.full, found.place) == (len(groups), len(full), first)
    assert found.nonzeros == (None if first is None else full[first])


@pytest.mark.parametrize("window", [1, 2, 3, 5, 7])
def test_groups_longer_and_wider_than_a_run_are_summed_right(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """Groups that do not fit into a run are counted as when they do."""
    for shape, dim, group in product([(2, 5), (5, 4), (3, 4, 5), (6, 2, 3)], [0, 1], [1, 2, 3, 5]):
        tensor = TensorOf(np.random.default_rng(group).integers(0, 2, shape).astype(np.float32))

        def found(tensor: TensorOf = tensor, group: int = group, dim: int = dim) -> counting.Full:
            return counting.full_groups(counting.NumpyOps(), tensor.info, tensor.read, (1, group), dim)

        expected = found()
        with monkeypatch.context() as patch:
            patch.setattr(counting, "RUN", window)

            assert found() == expected


def test_counts_go_on_from_run_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros and odd numbers of a tensor longer than a run are counted in all of it, the first at its place."""
    monkeypatch.setattr(counting, "RUN", 4)
    tensor = TensorOf(np.array([0, 1, 2, 3, 4, math.inf, 0, 7, -0.0, math.nan], np.float32))

    assert counting.count(counting.NumpyOps(), tensor.info, tensor.read) == counting.Found(3, 2, 5)


class TensorOf:
    """A NumPy array as what counting takes: its description, and a function that reads runs."""

    def __init__(self, array: np.ndarray) -> None:
        """Describe `array`, of float32."""
        from prunecli.checkpoint import Span, TensorInfo, row_major

        shape = tuple(array.shape)
        self.info = TensorInfo("w", "F32", shape, row_major(shape), 0, Span(0, array.nbytes))
        self._flat = array.reshape(-1).view(np.int32)

    def read(self, first: int, stop: int) -> np.ndarray:
        """Return the patterns of a run."""
        return self._flat[first:stop]


@given(rows=st.integers(1, 5), cols=st.integers(1, 20), inner=st.integers(1, 3), seed=st.integers(0, 99))
def test_two_of_four_is_what_the_report_calls_so(rows: int, cols: int, inner: int, seed: int) -> None:
    """`--pattern 2:4` holds where a report says `two_four`."""
    w = (np.random.default_rng(seed).random((rows, cols, inner)) < 0.45).astype(np.float32)
    tensor = TensorOf(w)

    found = counting.full_groups(counting.NumpyOps(), tensor.info, tensor.read, (2, 4), 1)

    assert (found.full == 0) == conforms(w.view(np.int32))


def test_the_first_full_group_is_named(tmp_path: Path) -> None:
    """The finding says where the first group is, what it has, and how many there are."""
    w = torch.zeros(3, 10)
    w[1, 4:7] = 1
    w[2, 8:] = 1
    path = store(tmp_path, w__weight=w)

    (finding,) = check(path, [Pattern(2, 4)])
    tail, *_ = check(path, [Pattern(1, 4)])

    assert (finding.tensor, finding.got) == ("w.weight", "3 at [1, 4:8]; 1 of 9 groups")
    assert tail.got == "3 at [1, 4:8]; 2 of 9 groups"
    assert failed(check(path, [Pattern(3, 4)])) == []
    assert check(path, [Pattern(1, 2, dim=0)])[0].holds is True
    assert check(path, [Pattern(1, 2, dim=-2)])[0].holds is True


def test_what_topk_leaves_conforms(container: str, tmp_path: Path) -> None:
    """A checkpoint that `topk` pruned passes the same pattern, along the same dim, in every container."""
    from prunecli.api import prune
    from prunecli.strategies.semi_structured import TopK

    path = make_checkpoint(container, tmp_path)
    output = tmp_path / f"out{path.suffix}"
    prune(path, TopK(2, 7, dim=0), output=output, reports=())

    assert failed(check(output, [Pattern(2, 7, dim=0)])) == []
    assert failed(check(path, [Pattern(2, 7, dim=0)])) != []


@pytest.mark.parametrize(("keep", "group"), [(5, 4), (-1, 4), (1, 0), (1, 40000)])
def test_a_pattern_that_no_group_can_have_is_refused(keep: int, group: int) -> None:
    """K of every G needs 0 <= K <= G and a group of some length."""
    with pytest.raises(UsageError, match="is no K of every G"):
        Pattern(keep, group)


def test_a_dim_that_a_tensor_lacks_is_an_error(tmp_path: Path) -> None:
    """A pattern along a dim that is not there cannot be judged."""
    path = store(tmp_path, w__weight=torch.ones(4, 4))

    with pytest.raises(SelectionError, match="no dim 2"):
        check(path, [Pattern(2, 4, dim=2)])


# --- other conditions on weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_what_is_not_finite_is_counted_and_placed(dtype: torch.dtype, tmp_path: Path) -> None:
    """NaN and infinities of either sign are found in every dtype, the first by its indices."""
    w = torch.ones(3, 4)
    w[1, 2], w[2, 0], w[2, 3] = math.nan, -math.inf, math.inf
    path = store(tmp_path, w__weight=w.to(dtype), v__weight=torch.ones(2, 2))

    (finding,) = check(path, [Finite()])

    assert (finding.tensor, finding.got) == ("w.weight", "3 NaN or infinite, first at [1, 2]")


def test_a_tensor_without_a_weight_left_is_named(tmp_path: Path) -> None:
    """`--no-all-zero` fails for zeros of either sign, and not where one weight is left."""
    one = torch.zeros(5, 5)
    one[4, 4] = 1e-45
    path = store(tmp_path, a__weight=-torch.zeros(2, 2), b__weight=one)

    assert failed(check(path, [NoAllZero()])) == ["a.weight"]
    assert failed(check(path, [NoAllZero()], exclude=["a.*"])) == []


# --- other checkpoints


@pytest.mark.parametrize("other", sorted(CONTAINERS))
def test_the_same_structure_is_the_same_in_any_container(other: str, tmp_path: Path) -> None:
    """Names, dtypes and shapes are compared whatever the container; a prefix or a tied name is a difference."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ours, theirs = make_checkpoint("zip", tmp_path / "a"), make_checkpoint(other, tmp_path / "b")

    findings = check(ours, [SameStructure(theirs), OnlyZerosAdded(theirs)])

    alike = not CONTAINERS[other].prefix and not CONTAINERS[other].tied
    assert all(finding.holds for finding in findings) == alike


def test_what_is_other_than_in_the_other_is_named(tmp_path: Path) -> None:
    """A missing tensor, another dtype, another shape and an extra tensor each are a finding."""
    (tmp_path / "b").mkdir()
    ours = store(tmp_path, a=torch.ones(2, 3), b=torch.ones(2, dtype=torch.float16), new=torch.ones(1))
    theirs = store(tmp_path / "b", a=torch.ones(3, 2), b=torch.ones(2), gone=torch.ones(()))

    findings = check(ours, [SameStructure(theirs)])

    assert [(f.tensor, f.wanted, f.got) for f in findings] == [
        ("a", "F32 3x2", "F32 2x3"),
        ("b", "F32 2", "F16 2"),
        ("gone", "F32 scalar", "none"),
        ("new", "none", "F32 1"),
    ]
    assert failed(check(ours, [OnlyZerosAdded(theirs)])) == ["a", "b", "gone", "new"]


def test_only_zeros_were_added_by_pruning(container: str, tmp_path: Path) -> None:
    """Pruning adds zeros alone, in every container; the other way round it is another change."""
    from prunecli.api import prune
    from prunecli.strategies.unstructured import L1

    path = make_checkpoint(container, tmp_path)
    output = tmp_path / f"out{path.suffix}"
    report = prune(path, L1(amount=0.5), output=output, reports=())
    tied = sum(row.pruned or 0 for row in report.rows for _ in row.aliases)

    (finding,) = check(output, [OnlyZerosAdded(path)])

    assert finding.holds
    assert finding.got.startswith(f"{(report.selected.pruned or 0) + tied:,} of ")
    assert not check(path, [OnlyZerosAdded(output)])[0].holds


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_one_changed_bit_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any other pattern than the old one and the zeros fails, with its place, whether NaN or a sign."""
    folder = tmp_path_factory.mktemp("bit")
    (folder / "old").mkdir()
    w = torch.randn(4, 5, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 9)))).clamp(min=0)
    changed = w.clone()
    row, col = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 4))
    bits(changed)[row, col] ^= data.draw(st.sampled_from([1 << n for n in range(31)] + [-(1 << 31)]))
    new, old = store(folder, w=changed), store(folder / "old", w=w)

    (finding,) = check(new, [OnlyZerosAdded(old)])

    assert finding.holds == (float(changed[row, col]) == 0)
    if not finding.holds:
        assert finding.got == f"1 of 20 changed otherwise, first at [{row}, {col}]"


def test_an_integer_that_became_zero_is_no_pruned_weight(tmp_path: Path) -> None:
    """Zeros may be added to floats only: a counter set to 0 is a change."""
    (tmp_path / "b").mkdir()
    ours, theirs = store(tmp_path, n=torch.tensor([1, 0])), store(tmp_path / "b", n=torch.tensor([1, 2]))

    assert failed(check(ours, [OnlyZerosAdded(theirs)])) == ["n"]


def test_patterns_narrow_the_comparison(tmp_path: Path) -> None:
    """`-x` leaves a tensor out of what is compared; patterns that leave nothing are an error."""
    (tmp_path / "b").mkdir()
    ours = store(tmp_path, a=torch.ones(2), b=torch.ones(2))
    theirs = store(tmp_path / "b", a=torch.ones(2), b=torch.ones(3))

    assert failed(check(ours, [SameStructure(theirs)], exclude=["b"])) == []
    with pytest.raises(CheckpointError, match="no tensor to compare"):
        check(ours, [SameStructure(theirs)], exclude=["*"])


# --- the command


def test_exit_codes_and_the_table(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """0 where all holds and 1 where something fails, with a line for each on standard output and nothing beside."""
    path = store(tmp_path, w__weight=torch.tensor([[0.0, 1.0, 2.0, 0.0]]))

    held = (
        "result  condition           tensor  wanted                            got\n"
        "ok      --min-sparsity 50%  all     at least 50%                      50.0% (2 of 4)\n"
        "ok      --pattern 2:4       all     at most 2 of every 4 along dim 1  0 of 1 groups have more\n"
        "\n"
        "all 2 conditions hold\n"
    )
    missed = (
        "result  condition           tensor  wanted       got\n"
        "FAILED  --max-sparsity 25%  all     at most 25%  50.0% (2 of 4; 1 too many)\n"
        "ok      --finite            all     all finite   all 4 weights are\n"
        "\n"
        "1 of 2 conditions failed\n"
    )

    assert run(path, "--min-sparsity", "50%", "--pattern", "2:4") == (0, held, "")
    assert run(path, "--max-sparsity", "0.25", "--finite") == (1, missed, "")
    assert run(path, "--max-sparsity", "0.25", "-q") == (1, "", "")


def test_json_says_it_too(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """The JSON form has the verdict, and each finding."""
    path = store(tmp_path, w__weight=torch.zeros(2, 2))

    code, out, err = run(path, "--no-all-zero", "--min-tensor-sparsity", "w*=100%", "--json", "-q")

    assert (code, err) == (1, "")
    document = json.loads(out)
    assert (document["schema"], document["holds"]) == (1, False)
    (one,) = document["checkpoints"]
    assert (one["checkpoint"], one["holds"]) == (str(path), False)
    assert [(f["condition"], f["holds"], f["tensor"]) for f in one["findings"]] == [
        ("--min-tensor-sparsity w*=100%", True, None),
        ("--no-all-zero", False, "w.weight"),
    ]


def test_several_checkpoints_are_checked_one_by_one(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """Each has its table under its name; one that fails fails all, and one that cannot be read ends it with 2."""
    (tmp_path / "b").mkdir()
    good, bad = store(tmp_path, w__weight=torch.ones(2, 2)), store(tmp_path / "b", w__weight=torch.zeros(2, 2))

    code, out, _ = run(good, bad, good, "--no-all-zero")

    assert code == 1
    assert [line for line in out.splitlines() if line and not line.startswith(("result", "ok", "FAILED"))] == [
        str(good),
        "the condition holds",
        str(bad),
        "the condition failed",
    ]
    assert run(good, good, "--no-all-zero", "-q")[0] == 0
    assert run(good, "missing.pth", "--no-all-zero")[0] == 2
    assert run("-", "-", "--no-all-zero")[2].startswith("error: only one checkpoint can come through")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "check needs a condition"),
        (("--min-sparsity", "50"), "the min sparsity is 0 to 1 (or 0% to 100%), not 50"),
        (("--min-sparsity", "=50%"), "no pattern before the `=`"),
        (("--max-tensor-sparsity", "w*="), "is a fraction or a percentage, not ''"),
        (("--min-sparsity", "fc9*=50%"), "the min sparsity pattern 'fc9*' matches none of 1 tensors"),
        (("--pattern", "2-4"), "the pattern is K:G"),
        (("--pattern", "4:2"), "is no K of every G"),
        (("--pattern", "2:4", "--dim", "5"), "no dim 5"),
        (("--dim", "1", "--finite"), "--dim is the dimension of --pattern"),
        (("--finite", "-i", "nope"), "the include pattern 'nope' matches none"),
        (("--same-structure-as", "missing.pth"), "there is no file or directory missing.pth"),
        (("--finite", "--key", "model"), "no key 'model'"),
    ],
)
def test_wrong_usage_ends_with_two(
    run: Callable[..., tuple[int, str, str]], args: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    """What cannot be checked is neither a success nor a failure: exit code 2, a sentence and a hint."""
    path = store(tmp_path, w__weight=torch.zeros(2, 2))

    code, out, err = run(path, *args)

    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert says in err
    assert "\nhint: " in err


def test_a_terminal_gets_the_first_rows_of_many() -> None:
    """On a terminal failures come first, long lists are cut and say so, and markup in a name is text."""
    held = Finding("--finite", holds=True, tensor=None, wanted="all finite", got="all 4 weights are")
    failures = [Finding("--no-all-zero", False, f"[red]{at}", "a weight", "none") for at in range(70)]

    text = written(write_findings, [held, *failures], width=80)

    assert "[red]59" in text
    assert "[red]60" not in text
    assert "11 more rows are not shown; the JSON output has all" in text
    assert "1 of 2 conditions failed" in text


def test_names_cannot_command_a_terminal(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """A name with control characters reaches the table as escapes, and JSON verbatim."""
    path = tmp_path / "m.safetensors"
    save_file({"a\x1b[2J\n.weight": torch.zeros(2, 2)}, path)

    _, out, _ = run(path, "--no-all-zero")
    _, as_json, _ = run(path, "--no-all-zero", "--json")

    assert "a\\x1b[2J\\n.weight" in out
    assert json.loads(as_json)["checkpoints"][0]["findings"][0]["tensor"] == "a\x1b[2J\n.weight"


def test_a_checkpoint_may_come_through_a_pipe(tmp_path: Path) -> None:
    """`prune check -` reads standard input, and names it so."""
    path = store(tmp_path, w__weight=torch.zeros(2, 2))
    script = (
        "import sys; from prunecli.cli import main as cli; from prunecli.cli.check import check;"
        "cli.app.registered_commands = [c for c in cli.app.registered_commands if c.name != 'check'];"
        "cli.app.command('check')(check); sys.exit(cli.main())"
    )
    command_line = [sys.executable, "-c", script, "check", "-", "--min-sparsity", "1.0", "--json"]

    ran = subprocess.run(command_line, input=path.read_bytes(), capture_output=True, check=False)

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert json.loads(ran.stdout)["checkpoints"][0]["checkpoint"] == "standard input"


@pytest.mark.skipif(not (SHARED / "checkpoints").is_dir(), reason="the shared checkpoints are not here")
def test_a_checkpoint_that_torch_pruned_and_retrained_is_half_zero() -> None:
    """AaronNet32plus, pruned by torch.nn.utils.prune, has 6,491 zeros in 13,302 weights."""
    path = SHARED / "checkpoints" / "AaronNet32plus.pth"
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    names = [n for n, t in loaded.items() if "weight" in n and t.dim() > 1 and t.is_floating_point()]
    zeros = sum(int((loaded[n] == 0).sum()) for n in names)

    (finding,) = check(path, [Sparsity(Bound(0.45))], include=names)

    assert zeros == 6491
    assert finding == Finding("--min-sparsity 45%", True, None, "at least 45%", "48.8% (6,491 of 13,302)")
