"""The instruction for models that call tools instead of writing tags."""

from __future__ import annotations

TOOL_PROMPT = (
    "Find the answer to the question at the end. Look up what you do not know with the tool `search`. The documents "
    "can be misleading, so search again if they do not help. Then call the tool `answer` once, with the answer alone, "
    "in a few words.\nQuestion: {question}\n"
)
"""A `prompt_template` for models that call tools; those of the protocols ask for tags."""
