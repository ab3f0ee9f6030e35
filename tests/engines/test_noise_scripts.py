"""Noisy searches over corpora in many scripts and spellings never show the answer, judged without the detector."""

from __future__ import annotations

import unicodedata

import pytest

from zerosearch_env.engines import make_engine
from zerosearch_env.engines.corpus.engine import CorpusEngine
from zerosearch_env.types import Dataset, Document, Paragraph, Question, SearchRequest

SEARCHES = 500
# (answer, sentence that states it, sentence that does not, query); {k} is the number of the passage.
LANGUAGES = {
    "chinese": ("巴黎", "巴黎是法国的首都和最大城市,第{k}段说明。", "里昂是法国的城市,第{k}段。", "法国的首都"),
    "japanese": ("東京", "日本の首都は東京です。第{k}段落。", "大阪は日本の都市です。第{k}段落。", "日本の首都"),
    "thai": ("กรุงเทพ", "เมืองหลวงของไทยคือกรุงเทพมหานคร ตอนที่ {k}", "เชียงใหม่เป็นเมืองของไทย ตอนที่ {k}", "เมืองหลวงของไทย"),
    "arabic": (
        "القاهرة",
        "عاصمة مصر هي القاهرة، وهي أكبر مدينة. الجزء {k}",
        "الإسكندرية مدينة في مصر. الجزء {k}",
        "عاصمة مصر",
    ),
    "korean": ("서울", "한국의 수도는 서울이다. 문단 {k}", "부산은 한국의 도시이다. 문단 {k}", "한국의 수도"),
    "possessive": (
        "Bram Stoker",
        "An adaptation of Bram Stoker's Dracula, part {k}.",
        "A film of Dracula, part {k}.",
        "Dracula",
    ),
    "compound": (
        "Paris",
        "The Paris-based firm opened its head office, part {k}.",
        "The firm opened, part {k}.",
        "the firm",
    ),
    "dash": (
        "1914\u20131918",
        "The war lasted 1914-1918, part {k}.",
        "The war lasted long, part {k}.",
        "the war lasted",
    ),
    "accent": ("Zürich", "A bank in Zu\u0308rich and Zurich, part {k}.", "A bank in Basel, part {k}.", "a bank in"),
    "markup": ("Zürich", "A bank in <b>Z&uuml;rich</b>, part {k}.", "A bank in Basel, part {k}.", "a bank in"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_noisy_documents_show_no_answer(language: str) -> None:
    answer, stating, other, query = LANGUAGES[language]
    passages = [
        Document(
            f"{kind} {k}", unicodedata.normalize("NFC", sentence.format(k=k)) if k % 2 else sentence.format(k=k), str(k)
        )
        for kind, sentence in (("p", stating), ("o", other))
        for k in range(15)
    ]
    engine = CorpusEngine(passages)
    stated = {passage.text for passage in passages if passage.title.startswith("p")}
    requests = [SearchRequest(query, f"{query}?", (answer,), True, 3, seed) for seed in range(SEARCHES)]
    results = engine.search(requests)
    assert all(result.failure is None and len(result.documents) == 3 for result in results)
    assert sum(document.text in stated for result in results for document in result.documents) == 0
    useful = engine.search([SearchRequest(query, f"{query}?", (answer,), False, 3, 0)])[0]
    assert len(useful.documents) == 3


def test_a_corpus_in_which_every_passage_states_the_answer_fails() -> None:
    engine = CorpusEngine([Document("x", f"Paris, part {k}", str(k)) for k in range(30)])
    request = SearchRequest("part", "part?", ("Paris",), True, 3, 0)
    mixed = SearchRequest("part", "part?", ("Paris",), (True, False, False), 3, 0)
    other = SearchRequest("part", "part?", ("Lyon",), True, 3, 0)
    results = engine.search([request, mixed, other])
    for result in results[:2]:
        assert result.documents == ()
        assert "no noisy document for 'part'" in str(result.failure)
        assert "Use a larger corpus" in str(result.failure)
    assert len(results[2].documents) == 3


def test_paragraphs_that_all_state_the_answer_fail() -> None:
    paragraphs = tuple(Paragraph(f"t{k}", f"Paris {k}", supporting=k == 0) for k in range(4))
    question = Question("1", "Where?", ("Paris",), paragraphs=paragraphs)
    engine = make_engine("corpus", dataset=Dataset("d", "test", [question]))
    request = SearchRequest("Paris", question.text, question.answers, True, 2, 0, question.paragraphs)
    assert "no noisy document" in str(engine.search([request])[0].failure)
