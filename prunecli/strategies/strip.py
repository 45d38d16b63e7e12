"""What a user asks of a strip: which weights to keep, the dtype they are cast to, and whether prefixes go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.errors import Argument, UsageError
from prunecli.text.escape import printable
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL, EMA = "model", "ema"
"""The words for what is kept; anything else is a pattern over names."""

TO = {"fp16": "F16", "float16": "F16", "bf16": "BF16", "bfloat16": "BF16"}
"""The dtypes that weights are cast to, by the names that users give."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Keeps the weights of a training checkpoint and drops the rest.

    Args:
        keep: "model" for the model's own weights, "ema" for their moving averages under the names of the model, or one
            or several patterns over tensor names: globs, or regular expressions after `re:`.
        to: "fp16" or "bf16" casts the kept floating-point weights of 16 bits and more; None keeps their dtypes.
        allow_overflow: Whether finite weights may become infinite by the cast.
        unwrap: Whether the prefixes of wrappers, such as `module.` and `_orig_mod.`, are removed from names.

    Raises:
        UsageError: A value is wrong.
    """

    keep: str | Sequence[str] = MODEL
    to: str | None = None
    allow_overflow: bool = False
    unwrap: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        if self.to is not None and self.to not in TO:
            message = f"a cast leads to fp16 or bf16, not {printable(repr(self.to))}"
            raise UsageError(message, hint=Argument("to", "fp16"))
        if not self.patterns and self.word not in {MODEL, EMA}:
            raise UsageError("keep is model, ema or a pattern", hint=Argument("keep", MODEL))
        if self.allow_overflow and self.to is None:
            hint = ("leave out ", Argument("allow_overflow", True))
            raise UsageError("no weight can overflow without a cast", hint=hint)

    @property
    def word(self) -> str:
        """The word "model" or "ema", or "" for patterns."""
        texts = [self.keep] if isinstance(self.keep, str) else list(self.keep)
        return texts[0] if len(texts) == 1 and texts[0] in {MODEL, EMA} else ""

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns over names, if the kept weights are not named by a word."""
        texts = (self.keep,) if isinstance(self.keep, str) else tuple(self.keep)
        return () if self.word else tuple(text for text in texts if text)

    @property
    def dtype(self) -> str | None:
        """The dtype of the cast, or None."""
        return None if self.to is None else TO[self.to]

    def describe(self) -> dict[str, object]:
        """Return the values, for a report."""
        return {"keep": self.word or list(self.patterns), "to": self.to, "unwrap": self.unwrap}
