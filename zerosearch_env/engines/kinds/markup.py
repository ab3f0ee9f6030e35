"""Documents inside the debris of web pages: navigation, banners, links, tables, source text.

The sentences stay readable, between things that have nothing to do with them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice

from ...randomness import split, splits
from ...types import Document
from .sentences import whole_sentences

_NAME = re.compile(
    r"[A-Z](?<![\w/>.].)[\w\u2019'-]+ (?:of |de |von |van )?[A-Z][\w\u2019'-]+"
    r"(?: (?:of |de |von |van )?[A-Z][\w\u2019'-]+){0,2}(?![\w/])",
    re.DOTALL,
)
"""A name of several words. It begins with what is looked for first, and the blank after the first word is not in a
group, because that is several times as fast."""
_MOST_LINKS = 4
"""Links per sentence."""
_SITES = (
    "Encyclopaedia Online",
    "FactHub",
    "AllAboutEverything",
    "WikiMirror",
    "The Daily Archive",
    "InfoPages",
    "Knowledge Base",
)
_JOINTS = ("-", "|", "\u2013")
_CELLS = ("\u2014", "n/a", "TBA", "")
_NOTES = ("", "[citation needed]", "[1]", "[2][3]", "&nbsp;")
_SECTIONS = (
    "Home",
    "News",
    "Topics",
    "People",
    "Places",
    "Culture",
    "Science",
    "Sport",
    "Film",
    "Music",
    "History",
    "Travel",
)
_ACTIONS = (
    "Log in",
    "Sign up",
    "Subscribe",
    "Search",
    "Menu",
    "Skip to content",
    "Contact",
    "About us",
    "Help",
    "Newsletter",
)
_COOKIES = (
    (
        "We use cookies to improve your experience. By continuing to browse this site you agree to our use of "
        "cookies. Accept all | Manage preferences"
    ),
    (
        "This website uses cookies and similar technologies. We and our 742 partners store and access information "
        "on a device. Accept Reject More options"
    ),
    "Your privacy matters to us. Cookie settings [x] Strictly necessary [ ] Performance [ ] Targeting Save and close",
)
_BREAKS = (
    "Advertisement",
    "Story continues below",
    "Read more: 10 things you did not know",
    "Share Tweet Pin Email Print",
    "Related: the 25 most popular articles of the week",
    "Sign up to our newsletter: enter your e-mail address",
    "ADVERTISEMENT - CONTINUE READING BELOW",
    "Loading comments ...",
)
_FOOTERS = (
    "Terms of use | Privacy policy | Cookie policy | Do not sell my personal information | Sitemap",
    "All rights reserved. Reproduction in whole or in part without permission is prohibited.",
    "Back to top ^ | Report an error | Cite this page | Permanent link",
    "Powered by PageBuilder. Page rendered in 0.318 s. 14 queries.",
)


def as_page(document: Document, golds: Sequence[str], seed: int) -> Document:
    """The document as a part of a web page.

    Args:
        document: the document.
        golds: the gold answers, which stay in sight.
        seed: determines the form of the page, one of five, and everything around the sentences.
    """
    form, name, joint = islice(splits(seed, 50), 3)
    site = _SITES[name % len(_SITES)]
    title = document.title
    sentences = whole_sentences(document.text, golds) or [document.text]
    text = _PAGES[form % len(_PAGES)](title or site, sentences, site, seed)
    heading = f"{title} {_JOINTS[joint % len(_JOINTS)]} {site}" if title else ""
    return Document(heading, text, document.source, document.score)


def _pick(choices: Sequence[str], seed: int, number: int) -> str:
    return choices[split(seed, number) % len(choices)]


def _several(choices: Sequence[str], start: int, count: int) -> list[str]:
    return [choices[(start + 7 * place) % len(choices)] for place in range(count)]


@lru_cache(maxsize=64)
def _html_menu(start: int) -> str:
    return "".join(f'<li><a href="/{name.lower()}/">{name}</a></li>' for name in _several(_SECTIONS, start, 5))


@lru_cache(maxsize=256)
def _markdown_menu(host: str, start: int) -> str:
    return " | ".join(f"[{name}]({host}/{name.lower()})" for name in _several(_SECTIONS, start, 6))


def _slug(text: str) -> str:
    return text.lower().replace(" ", "-") or "index"


def _with_breaks(sentences: Sequence[str], seed: int, wrap: Callable[[str], str]) -> list[str]:
    """The sentences with one or two interruptions between them."""
    lines = list(sentences)
    for number in range(1 + split(seed, 53) % 2):
        lines.insert(split(seed, 5400 + number) % (len(lines) + 1), wrap(_pick(_BREAKS, seed, 55 + number)))
    return lines


def _plain_page(title: str, sentences: Sequence[str], site: str, seed: int) -> str:
    """The text of all elements of a page, as simple extraction leaves it."""
    actions, menu, section, day, month, minutes, cookies, footer = islice(splits(seed, 60), 8)
    return "\n".join(
        (
            *_several(_ACTIONS, actions, 3),
            site,
            *_several(_SECTIONS, menu, 5),
            f"{site} > {_SECTIONS[section % len(_SECTIONS)]} > {title}",
            f"Last updated: {1 + day % 28:02d}/{1 + month % 12:02d} | {2 + minutes % 9} min read",
            *_with_breaks(sentences, seed, str),
            _COOKIES[cookies % len(_COOKIES)],
            _FOOTERS[footer % len(_FOOTERS)],
        )
    )


def _html_page(title: str, sentences: Sequence[str], site: str, seed: int) -> str:
    """The source of a page."""
    links = _html_menu(split(seed, 70) % len(_SECTIONS))

    def linked(match: re.Match[str]) -> str:
        number = split(seed, 7100 + match.start()) % 90000 + 10000
        return f'<a href="/topic/{_slug(match[0])}" data-id="{number}">{match[0]}</a>'

    paragraphs = [
        f"<p>{_NAME.sub(linked, html.escape(sentence, quote=False), _MOST_LINKS)}</p>" for sentence in sentences
    ]
    return "\n".join(
        (
            f'<div id="header" class="sticky"><a class="logo" href="/"><img src="/img/logo@2x.png" alt="{site}"></a>'
            f'<ul class="nav">{links}</ul></div>',
            f'<div class="cookie-banner" role="dialog">{_pick(_COOKIES, seed, 72)}</div>',
            f'<h1 class="entry-title">{html.escape(title, quote=False)}</h1>',
            '<div class="meta">By Staff&nbsp;&bull;&nbsp;Updated</div>',
            *_with_breaks(
                paragraphs, seed, lambda text: f'<div class="ad-slot" data-slot="{split(seed, 73) % 9000}">{text}</div>'
            ),
            '<div class="share"><button>Share</button><button>Tweet</button></div>'
            f"<footer>&copy; {site}. {_pick(_FOOTERS, seed, 74)}</footer>",
        )
    )


def _markdown_page(title: str, sentences: Sequence[str], site: str, seed: int) -> str:
    """A page as a reader service converts it."""
    host = f"https://www.{_slug(site).replace('-', '')}.example"
    menu = _markdown_menu(host, split(seed, 80) % len(_SECTIONS))

    def linked(match: re.Match[str]) -> str:
        return f"[{match[0]}]({host}/{_slug(match[0])})"

    rows = [
        f"| {_pick(_CELLS, seed, 81 + row)} | {split(seed, 8500 + row) % 9000} | [[{row + 1}]]({host}/ref#{row + 1}) |"
        for row in range(2)
    ]
    lines = [_NAME.sub(linked, sentence, _MOST_LINKS) for sentence in sentences]
    return "\n".join(
        (
            f"[Skip to main content]({host}/#main) [![{site}]({host}/logo.svg)]({host})",
            menu,
            f"# {title}",
            *_with_breaks(lines, seed, lambda text: f"> **{text}**"),
            "| | | |",
            "|---|---|---|",
            *rows,
            f"![]({host}/pixel.gif?id={split(seed, 86) % 10**8}) {_pick(_COOKIES, seed, 87)}",
            f"* [Terms]({host}/terms) * [Privacy]({host}/privacy)",
        )
    )


def _wiki_page(title: str, sentences: Sequence[str], site: str, seed: int) -> str:
    """The source of a wiki's page."""
    lines = []
    for number, (sentence, draw) in enumerate(zip(sentences, splits(seed, 9000), strict=False)):
        text = _NAME.sub(r"[[\g<0>]]", sentence, _MOST_LINKS)
        if draw % 2:
            ref = f"ref{split(seed, 9100 + number) % 90 + 10}"
            url = f"http://{_slug(site)}.example/{ref}"
            text += f'<ref name="{ref}">{{{{cite web |url={url} |access-date= |url-status=dead}}}}</ref>'
        lines.append(text)
    return "\n".join(
        (
            "{{Use dmy dates|date=}} {{More citations needed|date=}} "
            f"{{{{Infobox | name = {title} | image = {_slug(title)}.jpg | caption = }}}}",
            *lines,
            "== See also == {{Portal}} {{Div col|colwidth=20em}}",
            "== References == {{Reflist|2}} {{Authority control}} "
            f"[[Category:{_pick(_SECTIONS, seed, 92)}]] [[Category:Articles with dead external links]] {{{{stub}}}}",
        )
    )


def _table_page(title: str, sentences: Sequence[str], site: str, seed: int) -> str:
    """A page whose tables and scripts were flattened."""
    cells = " \u2502 ".join([str(draw % 1000) for draw in islice(splits(seed, 10000), 8)])
    page = f'{{"page":"{_slug(title)}","uid":"{split(seed, 101):x}"}}'
    data = f"window.dataLayer=window.dataLayer||[];dataLayer.push({page});"
    return "\n".join(
        (
            f"{data} !function(e,t){{e.async=!0}}(window,document);",
            f"v t e {title} | Contents [hide] 1 Overview 2 Details 3 Notes 4 External links",
            *(
                f"| {sentence} || {_NOTES[draw % len(_NOTES)]} ||"
                for sentence, draw in zip(_with_breaks(sentences, seed, str), splits(seed, 102), strict=False)
            ),
            f"\u2502 {cells} \u2502 .mw-parser-output{{display:inline}}",
            "@media(max-width:640px){.navbox{display:none}}",
            f"{site} &copy; {_pick(_FOOTERS, seed, 103)}",
        )
    )


_PAGES = (_plain_page, _html_page, _markdown_page, _wiki_page, _table_page)
