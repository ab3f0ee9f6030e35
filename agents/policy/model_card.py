"""The model card of a policy: `README.md` in its folder, for those who use it without this package.

It shows the exact prompt, how the model searches and answers, and how to run it elsewhere; and what it was trained on
and how it scored, as far as whoever saves the policy says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from zerosearch_env.errors import ConfigError, require, sentence
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules, make_rules
from zerosearch_env.llm.chat import end_ids
from zerosearch_env.llm.chat_format import TurnEncoder
from zerosearch_env.privacy import redact
from zerosearch_env.protocols.prompts import PLACEHOLDER
from zerosearch_env.types import Document, Question, SearchRequest, SearchResult, Step

from .card import AgentCard, card_rules, counted, model_context, token_limits
from .files import is_hub_name, local_policy

if TYPE_CHECKING:
    from jinja2 import Environment
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MODEL_CARD_FILE = "README.md"
_QUESTION, _QUERY = "Who wrote the novel Emma?", "author of the novel Emma"
_DOCUMENTS = (
    Document("Emma (novel)", "Emma is a novel written by Jane Austen."),
    Document("Jane Austen", "Jane Austen was an English novelist."),
)
_FOLDERS = re.compile(r"(?<![\w./])~?/(?:[^/,\s]+/)+")
"""The folders of a path that is absolute; a card may be published, and they are no one else's business."""


@dataclass(frozen=True)
class Provenance:
    """Where a policy comes from."""

    base: str = ""
    """The policy that the training started from, as the user named it; empty: unknown."""
    training: Mapping[str, object] = field(default_factory=dict)
    """What it was trained with, by name, such as `{"Questions": "world"}`."""
    scores: Mapping[str, object] = field(default_factory=dict)
    """What it scored, by name, such as `{"EM at noise 0.5": 0.43}`."""


def model_card(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: AgentCard,
    provenance: Provenance | None = None,
) -> str:
    """The text of a policy's model card, in Markdown.

    Args:
        model: the policy's model.
        tokenizer: its tokenizer.
        card: its card.
        provenance: what is known of its training; None: nothing.
    """
    provenance = Provenance() if provenance is None else provenance
    rules = card_rules(make_rules(), card)
    limits = token_limits(card, rules.protocol, model_context(model.config))
    prompt, observation, problem = _texts(tokenizer, rules, card)
    base = base_on_hub(provenance.base)
    ends = sorted(end_ids(model, tokenizer, len(tokenizer)))
    values = {
        "front_matter": _front_matter(base),
        "title": f"{base.rpartition('/')[2]} with search" if base else "A search agent",
        "prompt": prompt,
        "no_prompt": problem,
        "prompt_lines": _python_text(prompt or ""),
        "observation": observation,
        "protocol": rules.protocol.name,
        "assumed": card.protocol is None,
        "search": rules.protocol.render_search("query"),
        "answer": rules.protocol.render_answer("answer"),
        "stops": rules.protocol.stop_strings,
        "ends": tokenizer.convert_ids_to_tokens(ends),
        "limits": limits,
        "turns": counted(rules.max_turns, "turn"),
        "documents": counted(rules.top_k, "document"),
        "training": [(name, _shown(value)) for name, value in provenance.training.items()],
        "scores": [(name, _shown(value)) for name, value in provenance.scores.items()],
    }
    return _templates().get_template("model_card.md.jinja").render(values)


def base_on_hub(policy: str) -> str:
    """The name on the Hugging Face Hub of the model that a policy goes back to; empty if none is known.

    Args:
        policy: a name on the hub, or a folder, whose own model card may name its base model.
    """
    if is_hub_name(policy):
        return policy.partition("@")[0]
    card = local_policy(policy) / MODEL_CARD_FILE
    if not policy or not card.is_file():
        return ""
    try:
        base = (require("huggingface_hub").metadata_load(card) or {}).get("base_model")
    except Exception:  # the card is not ours and may hold anything; yaml raises its own classes
        return ""
    return base if isinstance(base, str) and is_hub_name(base) else ""


def _front_matter(base: str) -> str:
    data = require("huggingface_hub").ModelCardData(
        base_model=base or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["zerosearch", "search-agent", "question-answering"],
    )
    return str(data.to_yaml()).rstrip()


def _texts(tokenizer: Any, rules: Rules, card: AgentCard) -> tuple[str | None, str | None, str]:
    """The prompt with its placeholder, what is appended after a search, and why there is no prompt."""
    if rules.dataset_prompts:
        return None, None, "Every question comes with its own prompt, in its row of the dataset (`Question.prompt`)."
    try:
        encoder = TurnEncoder(tokenizer, rules, card.format)
        (shown,), (ids,) = (encoder.prompts([_episode(text, rules)]) for text in (PLACEHOLDER, _QUESTION))
        prompt, observation = _decode(tokenizer, shown), _observation(encoder, tokenizer, rules)
    except ConfigError as cause:
        return None, None, f"The prompt cannot be shown: {sentence(cause)}"
    text = prompt.replace(PLACEHOLDER, _QUESTION)
    if tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
        return (
            None,
            observation,
            "This tokenizer does not give its text back as it was. Use zerosearch-env for prompts.",
        )
    return prompt, observation, ""


def _observation(encoder: TurnEncoder, tokenizer: Any, rules: Rules) -> str | None:
    episode, text = _episode(_QUESTION, rules), rules.protocol.render_search(_QUERY)
    request = episode.advance(text)
    if not isinstance(request, SearchRequest):
        return None
    step = episode.observe(SearchResult(_DOCUMENTS, engine="example"))
    assert isinstance(step, Step)
    (ids,) = encoder.observations([step], [(text, None)])
    return _decode(tokenizer, ids).strip("\n")


def _episode(question: str, rules: Rules) -> Episode:
    return Episode(Question("example", question, ("Jane Austen",)), rules)


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _python_text(text: str) -> str:
    """Python that assigns a text to `prompt`, with a line of the program for each line of the text."""
    lines = text.splitlines(keepends=True)
    if len(lines) < 2:
        return f"prompt = {_quoted(text)}"
    return "\n".join(["prompt = (", *(f"    {_quoted(line)}" for line in lines), ")"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _shown(value: object) -> str:
    """A value in a cell of a table, without credentials and without the folders of this machine."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return _FOLDERS.sub("", redact(text)).replace("|", "\\|").replace("\n", " ")


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("zerosearch_agents.policy"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {
        "code": lambda text: f"`{text}`",
        "quoted": lambda texts: f"[{', '.join(map(_quoted, texts))}]",
    }
    return environment
