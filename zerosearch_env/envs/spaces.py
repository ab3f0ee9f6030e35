"""The text space of the environment: every Unicode string is a member, and samples are well-formed actions.

`gymnasium.spaces.Text` needs an explicit character set, and a set of all code points takes seconds to build and to
compare. `UnicodeText` is a `Text` with a virtual character set that stores nothing, so comparison, hashing and
membership are cheap.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.error import CustomSpaceError
from gymnasium.spaces import Text
from gymnasium.spaces.utils import flatten
from gymnasium.vector.utils import create_shared_memory
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..protocols import Protocol

_CODE_POINTS = 0x110000
_SEARCH_SHARE = 0.7

_WORDS = (
    "who when where which city river capital founder author born opened wrote painted composed museum bridge company "
    "university island mountain film novel award year country language leader first oldest largest near of the in"
).split()


class AllCharacters(Set[str], Sequence[str]):
    """All code points from U+0000 to U+10FFFF, including surrogates, as a set and a sequence that store nothing."""

    def __contains__(self, char: object) -> bool:
        """True for every string of length one."""
        return isinstance(char, str) and len(char) == 1

    def __len__(self) -> int:
        """The number of code points, 1,114,112."""
        return _CODE_POINTS

    def __iter__(self) -> Iterator[str]:
        """All characters in the order of their code points."""
        return map(chr, range(_CODE_POINTS))

    def __getitem__(self, index: Any) -> Any:
        """The character with this code point; for a slice, a string of characters."""
        if isinstance(index, slice):
            return "".join(map(chr, range(*index.indices(_CODE_POINTS))))
        return chr(int(index))

    def __eq__(self, other: object) -> bool:
        """All instances are equal."""
        return isinstance(other, AllCharacters)

    def __hash__(self) -> int:
        """All instances have the same hash."""
        return hash(AllCharacters)

    def __repr__(self) -> str:
        """A short description instead of a million characters."""
        return "AllCharacters()"


class UnicodeText(Text):
    """The space of all strings: every `str` is a member, including the empty one and lone surrogates.

    Membership is an `isinstance` check and does not limit the length. If an action is too long, the environment ends
    the episode with a stop reason. `max_length` is the size that `flatten` reserves for one string.

    Args:
        max_length: maximum number of characters of a string in `flatten`.
        protocol: a protocol or its name; `sample` returns well-formed actions of it. None: `sample` returns a few
            random words.
        seed: seed of `sample`.

    Example:
        >>> space = UnicodeText(protocol="zerosearch", seed=3)
        >>> "any text" in space and "" in space and chr(0xD800) in space
        True
        >>> space == UnicodeText(protocol="zerosearch")
        True
    """

    def __init__(
        self,
        max_length: int = 65_536,
        *,
        protocol: str | Protocol | None = None,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        """Create the space; see the class for the arguments."""
        super().__init__(max_length, min_length=0, charset="", seed=seed)
        self._protocol: Protocol | None = None
        if protocol is not None:
            from ..protocols import get_protocol

            self._protocol = get_protocol(protocol)

    @property
    def protocol(self) -> Protocol | None:
        """The protocol whose actions `sample` returns, or None."""
        return self._protocol

    def contains(self, x: object) -> bool:
        """True for every `str`; takes constant time."""
        return isinstance(x, str)

    # Any: Gymnasium declares arrays; only None is accepted
    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A random well-formed action (70 % are searches), or a few random words if the space has no protocol.

        Args:
            mask: not supported, must be None.
            probability: not supported, must be None.

        Raises:
            ValueError: a mask or a probability was given.
        """
        if mask is not None or probability is not None:
            raise ValueError(
                "UnicodeText.sample takes neither a mask nor a probability: its character set is all of Unicode."
            )
        rng = self.np_random
        words = " ".join(_WORDS[index] for index in rng.integers(len(_WORDS), size=int(rng.integers(1, 7))))
        if self._protocol is None:
            return words
        if rng.random() < _SEARCH_SHARE:
            return self._protocol.render_search(words)
        return self._protocol.render_answer(words)

    # Any: Gymnasium declares a collection that would store a million characters
    @property
    def character_set(self) -> Any:
        """All characters, as a set that stores nothing."""
        return _ALL

    # Any: Gymnasium declares a collection that would store a million characters
    @property
    def character_list(self) -> Any:
        """All characters in order, as a sequence that stores nothing."""
        return _ALL

    # Any: Gymnasium declares a collection that would store a million characters
    @property
    def characters(self) -> Any:
        """All characters in order, as a sequence that stores nothing (in `Text` this is one long `str`)."""
        return _ALL

    def character_index(self, char: str) -> np.int32:
        """The code point of a character."""
        return np.int32(ord(char))

    def __repr__(self) -> str:
        """A short description."""
        name = None if self._protocol is None else self._protocol.name
        return f"UnicodeText(max_length={self.max_length}, protocol={name!r})"

    def _key(self) -> tuple[int, str | None]:
        return self.max_length, None if self._protocol is None else self._protocol.name

    def __eq__(self, other: object) -> bool:
        """Equal if `max_length` and the protocol's name are equal."""
        return isinstance(other, UnicodeText) and self._key() == other._key()

    def __hash__(self) -> int:
        """Hash of the values that `__eq__` compares."""
        return hash(self._key())


_ALL = AllCharacters()


@flatten.register(UnicodeText)
def _flatten(space: UnicodeText, x: str) -> NDArray[np.int32]:  # type: ignore[misc]
    """Code points, shape `(max_length,)`, padded with 0x110000."""
    if len(x) > space.max_length:
        raise ValueError(
            f"a string of {len(x)} characters does not fit into the {space.max_length} that {space!r} reserves. "
            "Use a space with a larger max_length."
        )
    flat = np.full(space.max_length, _CODE_POINTS, dtype=np.int32)
    flat[: len(x)] = np.frombuffer(x.encode("utf-32-le", "surrogatepass"), dtype="<i4")
    return flat


@create_shared_memory.register(UnicodeText)
def _create_shared(space: UnicodeText, n: int = 1, ctx: Any = multiprocessing) -> Any:
    raise CustomSpaceError(
        "strings of any length do not go into shared memory: give AsyncVectorEnv shared_memory=False, or use "
        'gymnasium.make_vec("ZeroSearch-v0", num_envs=N), which needs no processes.'
    )
