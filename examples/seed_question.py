"""One question to one model, three ways: from memory, with the documents of one search, and searching by itself.

    python examples/seed_question.py                       # the tiny model that comes with the package
    python examples/seed_question.py runs/real/policy      # any folder of a model, or a name on the Hugging Face Hub
    python examples/seed_question.py openai:http://127.0.0.1:8000/v1

SmolLM2-135M-Instruct makes a name up from memory, and reads the right one in the documents of one search.
"""

from __future__ import annotations

import contextlib
import sys

from zerosearch_agents.players.options import PlayConfig
from zerosearch_env import Episode, make_engine, make_rules
from zerosearch_env.types import Dataset, Document, Question

QUESTION = Question(
    "seed",
    "Who is the author of the novel series A Song of Ice and Fire?",
    ("George R. R. Martin", "George R.R. Martin", "George Martin"),
)
PASSAGES = [
    Document("A Song of Ice and Fire", "A Song of Ice and Fire is a series of novels by George R. R. Martin."),
    Document("Fire and Ice (poem)", "Fire and Ice is a short poem by Robert Frost about the end of the world."),
    Document("The Wheel of Time", "The Wheel of Time is a series of novels by Robert Jordan."),
    Document("Song of Solomon (novel)", "Song of Solomon is a novel by Toni Morrison."),
    Document("Novel series", "A novel series is a set of novels that share a world, a hero or a plot."),
]
WAYS = {"from memory": "baseline:direct", "with one search": "baseline:rag", "searching by itself": None}


def main(model: str = "tiny") -> dict[str, Episode]:
    """Ask the question in each way, print every turn, and return the episodes."""
    data = Dataset("seed", "test", [QUESTION], PASSAGES)
    engine, rules = make_engine("corpus", dataset=data), make_rules(max_turns=3, top_k=2)
    played = {}
    with contextlib.ExitStack() as stack:
        players = PlayConfig(policy=model, workers=1).make_players([way or model for way in WAYS.values()], stack)
        for way, player in zip(WAYS, players, strict=True):
            episode = played[way] = Episode(QUESTION, player.rules_for(rules), noise_level=0.0, seed=0)
            player.play([episode], engine)
            print(f"\n--- {way}")
            for turn in episode.turns:
                print(turn.action_text.strip() + turn.step.observation.rstrip())
            scores = episode.turns[-1].step.scores
            print(f"answer {scores.prediction!r}: exact match {scores.em:.0f}, contains a right one {scores.subem:.0f}")
    return played


if __name__ == "__main__":
    main(*sys.argv[1:])
