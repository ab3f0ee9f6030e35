"""Names of the synthetic world: word lists, and the rule by which a name belongs to train or to test.

A name is a code: a number whose digits choose one word of each list. The split is a property of the name itself (a
hash of its words), so train and test entities never share a name, in any world of any seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...randomness import mix_array

TEST_SHARE = 0.25
"""Share of all possible names that belong to the test split."""

_SPLIT_SEED = 0x5EED0F5711  # never change it: names would move between train and test


def _product(onsets: str, endings: str) -> tuple[str, ...]:
    return tuple(onset + ending for onset in onsets.split() for ending in endings.split())


FIRST_NAMES = _product(
    "Al Bren Cor Dar El Fen Gar Hal Is Jor Kel Lor Mar Nor Or Per",
    "a an en ia in is on or us ette ine ric wyn mund sa da",
)
LAST_NAMES = _product(
    "Ash Black Carr Dun Ever Frost Grey Hart Iron Kings Lang Mill North Oak Pem Quill",
    "berg bourne brook by croft dale ford gate ham hurst ley mere moor ridge stone wick",
)
PLACE_ROOTS = _product(
    "Arv Bel Cald Dor Esk Fal Gren Hol Iv Kar Lum Mont Nev Ost Port Rus",
    "a ano aria en essa eth ico ille ina ino ira olm ona ora una yra",
)
ORGANISATION_ROOTS = _product(
    "Ac Bor Cen Dyn Eq Flu Gen Hel In Jun Kro Lex Met Nov Opt Pro",
    "adex alis amon anta aris atek avia elix eon era exa icon idia ium onix ovar",
)
TOWN_WORDS = tuple(
    "Bay Bridge Cross Falls Fields Green Harbour Heath Hill Junction Landing Mills Point Rock Springs Wells".split()
)
REGION_WORDS = tuple("Coast County District Highlands Lowlands March Plains Province".split())
ORGANISATION_WORDS = tuple(
    "Academy Bank Brewery College Foundry Institute Laboratory Library "
    "Museum Observatory Press Railway Shipyard Society Theatre Works".split()
)
TITLE_ADJECTIVES = tuple(
    "Amber Ancient Autumn Bitter Blind Blue Borrowed Bright Broken Burning Careful Clever Copper Crimson Crooked "
    "Crystal Curious Distant Double Dusty Early Eastern Eleventh Emerald Empty Endless Faithful Fallen Familiar "
    "Fearless Final Forgotten Frozen Gentle Gilded Glass Golden Hidden Hollow Honest Humble Hungry "
    "Idle Invisible Ivory Jade "
    "Lasting Little Lonely Lost Lucky Marble Midnight Missing Moonlit Narrow Nameless Ninth Noble Painted Patient "
    "Perfect Plain Proud Quiet Restless Rising Royal Rusty Sacred Scarlet Second Secret Seventh Shallow Silent Silver "
    "Sleeping Slender Stolen Strange Sudden Summer Tender Thirsty Unbroken Uncertain Velvet Wandering Western "
    "Whispering Wild Winter Wooden Yellow Young".split()
)
TITLE_NOUNS = tuple(
    "Anchor Apple Archer Arrow Attic Autograph Bargain Basket Beacon Bell Bird Boat Bottle Branch Bride Butterfly "
    "Cabin Candle Canyon Caravan Carpet Castle Cathedral Chapel Circus Clock Cloud Compass Corridor "
    "Cottage Cousin Crown "
    "Dancer Desert Diamond Doctor Dragon Dream Eagle Echo Elephant Engine Envelope Errand Feather Ferry Fiddle Fire "
    "Flute Forest Fortress Fountain Fox Garden Ghost Giant Glove Guest Hammer Harvest Hawk Horse Hour Hunter Jacket "
    "Journey Judge Key Kingdom Kite Ladder Lake Lamp Lantern Lemon Letter Lighthouse Lion Locket Mask Meadow Melody "
    "Messenger Miller Mirror Monk Mountain Nephew Night Ocean Orchard Owl Palace Parrot Passage Pearl Pilgrim Pilot "
    "Portrait Prince Promise Puzzle Rain Raven Riddle River Road Rose Sailor Scholar Shadow Shepherd Ship Shore Singer "
    "Sister Snow Soldier Song Sparrow Stairway Station Storm Stranger Sword Tailor Thief Tiger Tower Train Traveller "
    "Treasure Tunnel Umbrella Valley Violin Visitor Voyage Wagon Watchman Wedding Whale Widow Window Witness".split()
)


@dataclass(frozen=True)
class NameGrammar:
    """The name grammar of one kind of entity.

    The digits of a code select one word from each of `lists`, and `pattern` joins the words. `long_lists` and
    `long_pattern` are used instead if a world needs more names than `lists` can give.
    """

    lists: tuple[tuple[str, ...], ...]
    pattern: str
    long_lists: tuple[tuple[str, ...], ...]
    long_pattern: str

    def capacity(self, long: bool = False) -> int:
        """The number of different names, in both splits together."""
        return int(np.prod([len(words) for words in (self.long_lists if long else self.lists)]))


GRAMMARS: dict[str, NameGrammar] = {
    "person": NameGrammar((FIRST_NAMES, LAST_NAMES), "%s %s", (FIRST_NAMES, FIRST_NAMES, LAST_NAMES), "%s %s %s"),
    "town": NameGrammar((PLACE_ROOTS, TOWN_WORDS), "%s %s", (PLACE_ROOTS, PLACE_ROOTS, TOWN_WORDS), "%s %s %s"),
    "region": NameGrammar((PLACE_ROOTS, REGION_WORDS), "%s %s", (PLACE_ROOTS, PLACE_ROOTS, REGION_WORDS), "%s %s %s"),
    "work": NameGrammar(
        (TITLE_ADJECTIVES, TITLE_NOUNS),
        "The %s %s",
        (TITLE_ADJECTIVES, TITLE_NOUNS, PLACE_ROOTS),
        "The %s %s of %s",
    ),
    "organisation": NameGrammar(
        (ORGANISATION_ROOTS, ORGANISATION_WORDS),
        "%s %s",
        (ORGANISATION_ROOTS, PLACE_ROOTS, ORGANISATION_WORDS),
        "%s %s %s",
    ),
}


def is_test_code(kind: str, codes: NDArray[np.uint64], long: bool = False) -> NDArray[np.bool_]:
    """True for name codes that belong to the test split; same shape as `codes`."""
    salt = list(GRAMMARS).index(kind) * 2 + long
    draws = mix_array(_SPLIT_SEED + salt, codes) >> np.uint64(11)
    return draws.astype(np.float64) * 2.0**-53 < TEST_SHARE


def draw_names(kind: str, count: int, split: str, seed: int) -> list[str]:
    """`count` different names of one kind that belong to `split` ("train" or "test"); `seed` determines the order.

    Raises:
        ValueError: there are not enough names.
    """
    grammar = GRAMMARS[kind]
    share = TEST_SHARE if split == "test" else 1.0 - TEST_SHARE
    long = count > 0.8 * share * grammar.capacity()
    capacity = grammar.capacity(long)
    if count > 0.8 * share * capacity:
        raise ValueError(
            f"a world can have at most {int(0.8 * share * capacity)} entities of kind {kind!r}, not {count}"
        )
    counters = np.arange(int(count / share * 1.3) + 64 if long else capacity, dtype=np.uint64)
    draws = mix_array(seed, counters)
    if long:  # too many names to sort them all: draw codes and drop repeated ones
        codes = draws % np.uint64(capacity)
        codes = codes[np.sort(np.unique(codes, return_index=True)[1])]
        codes = codes[is_test_code(kind, codes, long) == (split == "test")][:count]
    else:  # the codes with the smallest draws; only these are sorted
        codes = counters[is_test_code(kind, counters) == (split == "test")]
        codes = codes[draws[codes] <= np.partition(draws[codes], count - 1)[count - 1]]
        codes = codes[np.argsort(draws[codes], kind="stable")][:count]
    words = grammar.long_lists if long else grammar.lists
    columns: list[list[str]] = []
    rest = codes.astype(np.int64)
    for choices in reversed(words):
        rest, digits = np.divmod(rest, len(choices))
        columns.append(np.array(choices, dtype=object)[digits].tolist())
    pattern = grammar.long_pattern if long else grammar.pattern
    return [pattern % row for row in zip(*reversed(columns), strict=True)]


def aliases(kind: str, name: str) -> tuple[str, ...]:
    """Other ways to write a name, each accepted as an answer."""
    if kind == "person":
        first, last = name.split(" ", 1)
        return (f"{first[0]}. {last}",)
    if kind == "work":
        return (name.removeprefix("The "),)
    return ()
