"""The choice of what a job ranks by. Plain magnitudes need no scorer, so their runs import no module of scorers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.engine.score_files import ScoreSources
from prunecli.io.threads import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.score_files import MatchedTensors
    from prunecli.engine.scorers import MagnitudeScorer, Scorer
    from prunecli.engine.work import Job
    from prunecli.io.files import Input
    from prunecli.io.reader import Reader
    from prunecli.kernels.random_bits import RandomNumbers


def make_scorer(
    job: Job,
    targets: Sequence[TensorInfo],
    files: Sequence[Input],
    open_reader: Callable[[MatchedTensors], Reader],
) -> Scorer | None:
    """Return the scorer that ranks the targets for a job; None for the plain magnitudes of elements.

    `files` are the open files of the checkpoint, and `open_reader` opens the files of another one.
    """
    made = {index: job.strategy.own_scores(tensor) for index, tensor in enumerate(targets)}
    own = {index: scores for index, scores in made.items() if scores is not None}
    scaled = any(tensor.scale is not None for tensor in targets)
    if not own and not scaled and job.sources == ScoreSources():
        return None
    from prunecli.engine.scorers import MagnitudeScorer, MaskReader, RemainingScorer  # noqa: PLC0415 - they need NumPy
    from prunecli.io.scales import ScaleReader  # noqa: PLC0415 - it needs NumPy

    magnitudes, sources = MagnitudeScorer(targets, ScaleReader(files)), job.sources
    scorer = _base_scorer(own, sources, magnitudes, open_reader)
    if not sources.has_pruned:
        return scorer or (magnitudes if scaled else None)
    mask = None if sources.mask is None else MaskReader(sources.mask, open_reader(sources.mask))
    return RemainingScorer(scorer or magnitudes, mask, targets)


def _base_scorer(
    own: Mapping[int, RandomNumbers],
    sources: ScoreSources,
    magnitudes: MagnitudeScorer,
    open_reader: Callable[[MatchedTensors], Reader],
) -> Scorer | None:
    """Return the scorer that ignores already pruned weights; None for magnitudes."""
    from prunecli.engine.scorers import ActNormScorer, FileScorer, GeneratedScorer, MaskReader  # noqa: PLC0415

    if own:
        return GeneratedScorer(own)
    if sources.strategy_mask is not None:
        return MaskReader(sources.strategy_mask, open_reader(sources.strategy_mask))
    if sources.scores is not None:
        return FileScorer(sources.scores, open_reader(sources.scores))
    if sources.norms is not None:
        return ActNormScorer(magnitudes, sources.norms, open_reader(sources.norms), Worker(None))
    return None
