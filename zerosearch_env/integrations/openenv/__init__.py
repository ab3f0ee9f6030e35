"""OpenEnv: the environment as a server of OpenEnv, for trainers and agents that speak to one.

    app = make_app(SessionSource(noise_level=0.5))       # for any ASGI server; or: zerosearch serve --openenv
    client = GenericEnvClient(base_url="http://127.0.0.1:8000").sync()

Every connection plays its own episodes; dataset, engine and rules are shared. A client acts in either of two ways:
`step({"text": ...})` is a turn in the tags of the protocol, and the tools `search` and `answer` can be called with
`MCPToolClient`, or as MCP over HTTP. docs/frameworks/openenv.md has examples. Needs the extra `openenv`.
"""

from __future__ import annotations

from ..versions import require_version

require_version("openenv", "0.10", "0.10", 'pip install "zerosearch-env[openenv]"')

from .environment import SearchEnvironment as SearchEnvironment  # noqa: E402
from .environment import make_app as make_app  # noqa: E402
from .models import SearchAction as SearchAction  # noqa: E402
from .models import SearchObservation as SearchObservation  # noqa: E402
from .models import SearchState as SearchState  # noqa: E402
