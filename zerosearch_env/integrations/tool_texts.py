"""What models that call tools read: their instruction, and the descriptions of the tools `search` and `answer`.

The frameworks take a description in different forms: an OpenAI-style schema, a JSON schema next to a text, or a
docstring. All of them come from `SEARCH` and `ANSWER`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..types import Json, JsonObject

TOOL_PROMPT = (
    "Find the answer to the question at the end. Look up what you do not know with the tool `search`. The documents "
    "can be misleading, so search again if they do not help. Then call the tool `answer` once, with the answer alone, "
    "in a few words.\nQuestion: {question}\n"
)
"""A `prompt_template` for models that call tools; those of the protocols ask for tags."""


@dataclass(frozen=True)
class ToolText:
    """The description of a tool with one argument, a string."""

    name: str
    does: str
    argument: str
    """Name of the argument."""
    takes: str
    """What the argument is."""

    @property
    def parameters(self) -> JsonObject:
        """The JSON schema of the arguments."""
        argument: Json = {"type": "string", "description": self.takes}
        return {"type": "object", "properties": {self.argument: argument}, "required": [self.argument]}

    @property
    def docstring(self) -> str:
        """For frameworks that read the docstring of a function, in Google's style."""
        return f"{self.does}\n\nArgs:\n    {self.argument}: {self.takes}"


SEARCH = ToolText("search", "Search for documents.", "query", "What to search for, in a few words or as a question.")
ANSWER = ToolText(
    "answer", "Give the answer to the question, which ends it.", "text", "The answer alone, in a few words."
)
