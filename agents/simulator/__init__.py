"""`zerosearch simulator`: the pipeline that tunes a simulation LLM, collect -> label -> extract -> train -> evaluate."""
