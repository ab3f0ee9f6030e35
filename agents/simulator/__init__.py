"""`zerosearch simulator` tunes a simulation LLM: collect -> label -> extract -> train -> evaluate."""
