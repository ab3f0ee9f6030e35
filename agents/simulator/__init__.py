"""`zerosearch simulator`: tune a simulation LLM, in the stages collect -> label -> extract -> train -> evaluate."""
