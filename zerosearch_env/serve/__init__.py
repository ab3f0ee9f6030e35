"""`zerosearch serve`: any search engine behind every `/retrieve` dialect that training code speaks.

    codec, access, metrics -> asked, dialects, searches, batching -> app -> command

`dialects` and `asked` are pure: bodies in, records out, and back. `batching` shares engine calls between requests.
`app` is the ASGI application, `command` the process around it. Only these two load starlette and uvicorn (the extra
`serve`), and only when they run.
"""

from __future__ import annotations
