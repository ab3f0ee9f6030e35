"""Small word lists of general English: words that express the same relation, and the kind of thing a word asks for.

They say that "Who wrote X?" is answered by "X is a novel by Y", and that "where" asks for a place. They were written
for questions about what encyclopedias state, and hold no names but those of nations, months and days.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Kind = Literal["person", "place", "organisation", "title", "nationality", "year", "number", "name"]
"""What a candidate may be. `"name"`: a name of no particular kind."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTION_WORDS = _words(
    "a about after all also an and another any are as at be been before being between both but by can could did "
    "do does during each few for from had has have he her hers him his how if in into is it its just less many "
    "may me might more most much must my no nor not now of off on once one only or other our out over own same "
    "she should since so some such than that the their them then there these they this those through to too under "
    "until up upon very was we were what when where which while who whom whose why will with would yet you your s "
    "name named called"
)
"""Words that express no relation by themselves."""

QUESTION_WORDS = _words("who whom whose what which when where why how")
AUXILIARIES = _words("is are was were do does did has have had can could will would should")
"""A question that begins with one of these is answered by yes or no."""

_RELATIONS = (
    # birth, death, family
    "born birth birthplace birthday native",
    "died death dead deathplace killed buried",
    "spouse married marry marries marriage wife husband wed wedding widow engagement",
    "child children son daughter kid offspring father mother parent parents",
    "brother sister sibling siblings",
    # learning and work
    "teacher taught teach teaches pupil student studied study studies mentor tutor instructor",
    "attended educated graduated education alumnus degree alma",
    "employer employs employed employ employee work works worked job post hired hires career staff",
    "team club player plays played position",
    # public life
    "mayor governs governed govern governor elect elected election",
    "president king queen emperor monarch reign reigned ruled rules ruler minister",
    "leads led leader head director chief chairman ceo appointed appoint manager boss",
    "nationality citizenship citizen",
    "award awarded prize won win wins winner medal",
    # works
    "author wrote write writes written writer novel novelist book poem playwright work",
    "directed director directs filmmaker",
    "composer composed composes music soundtrack song songwriter",
    "producer produced produces production",
    "star stars starred starring cast actor actress role portrayed",
    "singer sang sung sings performer performed performs vocals band album",
    "publisher published publishes publish publishing sold",
    "publication printed released release premiered debut published came come issue issued",
    "setting set takes place located",
    "painter painted painting artist sculptor",
    "character characters voice voiced narrator",
    # places and organisations
    "region province district county area part lies lie situated located location state",
    "capital",
    "headquarters headquartered based offices base seat",
    "twin twinned twins sister partner",
    "charter chartered received town became",
    "founder founded founds set established establish started created creator inventor invented discovered",
    "founding foundation founded established existed existing opened formed incorporated",
    "owner owned owns acquired bought subsidiary parent",
    "population inhabitants people residents",
    "language spoken speak speaks languages",
    "river flows mountain lake bridge",
    "war battle fought army",
    "built construction constructed architect designed design completed",
)

RELATIONS_OF: Mapping[str, frozenset[int]] = {
    word: frozenset(number for number, group in enumerate(_RELATIONS) if word in group.split())
    for group in _RELATIONS
    for word in group.split()
}
"""Word -> the groups of words with the same relation that it belongs to."""

_KINDS: dict[Kind, str] = {
    "person": "who whom person man woman author writer director founder mayor teacher spouse wife husband father "
    "mother son daughter brother sister singer actor actress composer producer president king queen painter architect "
    "inventor leader head player pupil student poet novelist creator performer child",
    "place": "where place town city village country region province district county state birthplace headquarters "
    "setting capital location island river mountain continent twin",
    "organisation": "organisation organization company publisher employer team club band university school college "
    "institution studio network agency label party",
    "title": "book novel film movie song album work show series game",
    "nationality": "nationality citizenship",
    "year": "when year date day century",
    "number": "many much old population number",
}
KIND_OF: Mapping[str, Kind] = {word: kind for kind, words in _KINDS.items() for word in words.split()}
"""Word of a question -> the kind of thing it asks for."""

PLACE_WORDS = _words(
    "bay beach bridge canyon city coast county creek cross district falls fields forest green harbor harbour "
    "heath highlands hill hills island islands junction lake landing lowlands march mill mills mountain mountains "
    "north park peninsula plain plains point port province region river rock south springs state states street "
    "town valley village wells"
)
ORGANISATION_WORDS = _words(
    "academy agency army association bank brewery brothers church club college company corporation council "
    "foundation foundry group hospital inc institute laboratory league library limited ltd museum observatory "
    "orchestra party pictures press publishers railway records school shipyard society studio studios team "
    "theatre theater union university works"
)
"""Last words of names that tell a place or an organisation."""

NATIONALITIES = _words(
    "american argentine australian austrian bangladeshi belgian bolivian brazilian british bulgarian cambodian "
    "canadian chilean chinese colombian croatian cuban czech danish dutch egyptian english estonian ethiopian "
    "filipino finnish french georgian german ghanaian greek hungarian icelandic indian indonesian iranian iraqi "
    "irish israeli italian jamaican japanese kenyan korean latvian lebanese lithuanian malaysian mexican moroccan "
    "nepalese nigerian norwegian pakistani peruvian polish portuguese romanian russian scottish serbian slovak "
    "slovenian soviet spanish swedish swiss syrian taiwanese thai turkish ukrainian venezuelan vietnamese welsh"
)

MONTHS_AND_DAYS = _words(
    "january february march april may june july august september october november december monday tuesday "
    "wednesday thursday friday saturday sunday"
)
"""Words in capitals that name nothing by themselves."""
