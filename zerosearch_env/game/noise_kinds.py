"""The kinds of noise: what a noisy search returns, where the noise level says how often a search is noisy.

    "counterfactual"                               one kind
    "garbled:0.8"                                  a kind with its number
    {"distractor": 0.5, "counterfactual": 0.5}     a mixture; as text: "distractor=0.5,counterfactual=0.5"
    ["distractor", "counterfactual"]               stages of the curriculum, over its progress from 0 to 1

Whether a search is noisy never depends on the kind, and a mixture draws the kind of each noisy search with a number of
its own. So the same searches are noisy under every kind, and kinds can be compared search by search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from ..checks import check_number
from ..errors import ConfigError, unknown_name
from ..randomness import mix, uniform

KINDS: Mapping[str, str] = {
    "distractor": "documents on the topic that do not state the answer",
    "irrelevant": "documents for another question",
    "counterfactual": "the useful documents with every answer replaced by a wrong one",
    "mixed": "useful and counterfactual documents side by side",
    "empty": "no documents",
    "garbled": "the useful documents with errors of spelling and of character recognition",
    "markup": "the useful documents inside the debris of a web page",
    "incomplete": "the useful documents without the sentences that state the answer",
    "redundant": "the useful documents buried in repetitions",
    "outage": "the message of a failed tool instead of documents",
    "injection": "documents on the topic that tell the reader what to answer",
}
"""Every kind of noise, and what a noisy search returns."""

NUMBERS: Mapping[str, tuple[float, float, float, str]] = {
    "garbled": (0.5, 0.0, 1.0, "the share of the documents with the answer in which it becomes unreadable"),
    "redundant": (8.0, 1.0, 100.0, "how many times as long the documents become"),
}
"""The kinds that take a number: its default, its smallest and largest value, and what it means."""

NoiseSpec = str | Mapping[str, float]
"""One stage: a kind, or a mixture as a mapping or a text."""

_DRAW = 0x4B494E44
"""Separates the draws of kinds from all other draws of an episode."""
_EXAMPLE = '{"distractor": 0.5, "counterfactual": 0.5}'


def split_kind(kind: str) -> tuple[str, float | None]:
    """The name and the number of a kind: `"redundant:8"` -> `("redundant", 8.0)`.

    Args:
        kind: `NAME` or `NAME:NUMBER`. For a kind that takes a number and has none, the number is the default; for the
            other kinds it is None.

    Raises:
        ConfigError: the kind is unknown (the message suggests the most similar one), takes no number, or its number is
            out of range.
    """
    name, colon, text = kind.partition(":")
    if name not in KINDS:
        raise unknown_name("kind of noise", kind, KINDS)
    if name not in NUMBERS:
        if colon:
            takers = " and ".join(f"{taker}:{NUMBERS[taker][0]:g}" for taker in NUMBERS)
            raise ConfigError(f"the kind of noise {name!r} takes no number, got {kind!r}; {takers} do.")
        return name, None
    default, least, most, meaning = NUMBERS[name]
    if not colon:
        return name, default
    try:
        number = float(text)
    except ValueError as cause:
        raise ConfigError(f"{kind!r}: {text!r} is not a number. Give {meaning}: {name}:{default:g}.") from cause
    what = f"the number of the noise {name!r}"
    return name, check_number(what, number, least=least, most=most, hint=f"It is {meaning}.")


@dataclass(frozen=True, slots=True)
class NoiseMixture:
    """The kinds of noise of an episode with their shares. `str` gives its text, which `read_mixture` reads again."""

    shares: tuple[tuple[str, float], ...]
    """(kind, share) in order of the kinds; the shares are above 0 and add up to 1."""

    def draw(self, seed: int, search: int) -> str:
        """The kind of a noisy search.

        Args:
            seed: the seed of the episode.
            search: number of the search in the episode, from 0.
        """
        if len(self.shares) == 1:
            return self.shares[0][0]
        number = uniform(mix(seed, _DRAW), search)
        for (kind, _), limit in zip(self.shares, accumulate(share for _, share in self.shares), strict=True):
            if number < limit:
                return kind
        return self.shares[-1][0]  # the shares may add up to slightly less than 1

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds, in order."""
        return tuple(kind for kind, _ in self.shares)

    def __str__(self) -> str:
        if len(self.shares) == 1:
            return self.shares[0][0]
        return ",".join(f"{kind}={share!r}" for kind, share in self.shares)

    def __reduce__(self) -> tuple[Callable[[str], NoiseMixture], tuple[str]]:
        """Copies and pickles of `DISTRACTOR` are the same object, by which episodes recognise it."""
        return read_mixture, (str(self),)


DISTRACTOR = NoiseMixture((("distractor", 1.0),))
"""The default."""


@dataclass(frozen=True, slots=True)
class NoiseKinds:
    """The kinds of noise of an environment, in stages over the progress of its curriculum."""

    stages: tuple[NoiseMixture, ...] = (DISTRACTOR,)

    def at(self, progress: float) -> NoiseMixture:
        """The mixture at `progress` in [0, 1]: stage i of n holds from i / n to (i + 1) / n."""
        count = len(self.stages)
        return self.stages[min(int(progress * count), count - 1)]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind of any stage, in alphabetical order."""
        return tuple(sorted({kind for stage in self.stages for kind in stage.kinds}))

    def __str__(self) -> str:
        return " ".join(map(str, self.stages))


def read_noise_kinds(spec: NoiseSpec | NoiseMixture | NoiseKinds | Sequence[NoiseSpec | NoiseMixture]) -> NoiseKinds:
    """The kinds of noise that a user asks for.

    Args:
        spec: a kind, a mixture as a mapping or as text, or a list of them: the stages of the curriculum.

    Raises:
        ConfigError: see `read_mixture`; or the list is empty.
    """
    if isinstance(spec, NoiseKinds):
        return spec
    if isinstance(spec, (list, tuple)):
        if not spec:
            raise ConfigError("noise_kind is an empty list: give at least one kind of noise, for example 'distractor'.")
        return NoiseKinds(tuple(map(read_mixture, spec)))
    return NoiseKinds((read_mixture(spec),))  # type: ignore[arg-type]  # checked there


def read_mixture(spec: NoiseSpec | NoiseMixture) -> NoiseMixture:
    """One kind of noise or one mixture.

    Args:
        spec: a kind such as `"counterfactual"` or `"redundant:8"`; a mapping kind -> share; or its text,
            `"distractor=0.5,counterfactual=0.5"`.

    Raises:
        ConfigError: a kind is unknown (the message suggests the most similar one), a share is not a number above 0, the
            shares do not add up to 1, or the argument is something else.
    """
    if isinstance(spec, NoiseMixture):
        return spec
    if isinstance(spec, str):
        return _read_text(spec)
    if not isinstance(spec, Mapping):
        raise ConfigError(f"a kind of noise must be a name or a mapping such as {_EXAMPLE}, got {spec!r}.")
    shares: dict[str, float] = {}
    for kind, share in spec.items():
        if not isinstance(kind, str):
            raise unknown_name("kind of noise", kind, KINDS)
        split_kind(kind)
        shares[kind] = check_number(f"the share of the noise {kind!r}", share, above=0, most=1)
    total = math.fsum(shares.values())
    if not math.isclose(total, 1, abs_tol=1e-6):
        raise ConfigError(f"the shares of the kinds of noise must add up to 1, got {total:g}: {dict(spec)!r}.")
    return DISTRACTOR if set(shares) == {"distractor"} else NoiseMixture(tuple(sorted(shares.items())))


@lru_cache(maxsize=64)
def _read_text(text: str) -> NoiseMixture:
    if "=" not in text:
        split_kind(text)
        return DISTRACTOR if text == "distractor" else NoiseMixture(((text, 1.0),))
    shares: dict[str, float] = {}
    for part in text.split(","):
        kind, _, share = part.strip().partition("=")
        if kind in shares:
            raise ConfigError(f"the kind of noise {kind!r} is given twice: {text!r}.")
        try:
            shares[kind] = float(share)
        except ValueError as cause:
            raise ConfigError(
                f"the mixture {text!r} needs a share for each kind, such as distractor=0.5,counterfactual=0.5; got "
                f"{part.strip()!r}."
            ) from cause
    return read_mixture(shares)


def is_noisy(flags: bool | tuple[bool, ...]) -> bool:
    """Whether any document of a search is noisy; see `SearchRequest.noisy`."""
    return flags if isinstance(flags, bool) else any(flags)
