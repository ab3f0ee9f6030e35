"""`zerosearch serve`: serves any search engine over every `/retrieve` dialect that training code uses.

    retrieve_api (dialects, bodies, codec) -> access, metrics, searches, batching -> app -> command

`retrieve_api` is pure: it converts bodies to records and back. `batching` shares engine calls between
requests. `app` is the ASGI application, `command` the process around it. Only these two import starlette and uvicorn
(the extra `serve`), and only when they run.
"""

from __future__ import annotations
