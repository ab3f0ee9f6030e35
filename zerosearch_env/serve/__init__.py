"""`zerosearch serve`: serves any search engine over every `/retrieve` dialect that training code uses.

    codec, access, metrics -> asked, dialects, searches, batching -> app -> command

`dialects` and `asked` are pure: they convert bodies to records and back. `batching` shares engine calls between
requests. `app` is the ASGI application, `command` the process around it. Only these two import starlette and uvicorn
(the extra `serve`), and only when they run.
"""

from __future__ import annotations
