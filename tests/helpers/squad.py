"""SQuAD's normalisation of answers, written without the package."""

from __future__ import annotations

import re
import string


def squad(text: str) -> str:
    """The published normalisation, written as plainly as it can be."""
    text = "".join(mark for mark in text.lower() if mark not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())
