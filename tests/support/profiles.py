"""The Hypothesis profiles: the same examples in every run, or ten times as many random ones."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

DEFAULT = 100
"""Examples per property where the test names no number."""


def load_profiles() -> None:
    """Register `fixed` and `random` and load `fixed`; `--hypothesis-profile=random` chooses the other."""
    settings.register_profile(
        "fixed",
        max_examples=DEFAULT,
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],  # a busy machine is slow
    )
    settings.register_profile("random", settings.get_profile("fixed"), max_examples=10 * DEFAULT, derandomize=False)
    settings.load_profile("fixed")


def examples(count: int) -> int:
    """Return the number of examples to try in the loaded profile of a property that takes `count` in `fixed`."""
    return count * settings().max_examples // DEFAULT
