"""NeMo-Gym: the environment as a `GymnasiumServer`, a resources server for its `gymnasium_agent`.

    # resources_servers/zerosearch/app.py in your NeMo-Gym folder
    from zerosearch_env.integrations.nemo_gym import ZeroSearchServer
    if __name__ == "__main__":
        ZeroSearchServer.run_webserver()

One server plays many episodes at the same time: they share one dataset and one engine. A row names its question, noise
level and seed, so every rollout of a row meets the same noise. Needs Python 3.12 or newer.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ..envs.infos import no_draw, plain, step_info
from ..envs.session import Session
from ..envs.sessions import SessionSource
from ..errors import EngineError, EpisodeError
from ..types import Json, StopReason
from .reports import episode_metrics
from .versions import require_version

require_version("nemo-gym", "0.4", "0.4", "pip install nemo-gym==0.4.0 (Python 3.12)")

from nemo_gym.base_resources_server import BaseResourcesServerConfig  # noqa: E402
from nemo_gym.openai_utils import NeMoGymResponse  # noqa: E402
from resources_servers.gymnasium import GymnasiumServer, extract_text  # noqa: E402


class ZeroSearchServerConfig(BaseResourcesServerConfig):
    """The server's configuration."""

    # Any: `EnvOptions` gives each argument its type
    env: dict[str, Any] = Field(default_factory=dict)
    """Options of `gym.make("ZeroSearch-v0")`."""
    max_sessions: int = 10_000
    """Open episodes; the oldest is closed when there are more. A client that leaves does not say so."""


class ZeroSearchServer(GymnasiumServer):
    """Plays the episodes of `make_rows`.

    Raises:
        pydantic.ValidationError: an option is invalid, or the dataset cannot be read; it has the message of the
            `ConfigError` or `DataError`.
    """

    config: ZeroSearchServerConfig

    # Any: pydantic declares it so
    def model_post_init(self, context: Any) -> None:
        """Load what the options describe when the server starts."""
        super().model_post_init(context)
        SessionSource.shared(**self.config.env)

    @property
    def source(self) -> SessionSource:
        """What the sessions share."""
        return SessionSource.shared(**self.config.env)

    # Any: NeMo-Gym declares it so
    async def reset(self, metadata: dict[str, Any], session_id: str | None = None) -> tuple[None, dict[str, Json]]:
        """Start the episode of a row. The prompt is already in the row's `responses_create_params`.

        Raises:
            ConfigError: the row does not name an episode of this server.
        """
        session = self.source.start_row(metadata)
        self.session_state.pop(session_id, None)
        while len(self.session_state) >= self.config.max_sessions:
            del self.session_state[next(iter(self.session_state))]
        self.session_state[session_id] = session
        question = session.episode.question
        return None, {"question_id": question.id, "noise_level": session.episode.noise_level}

    # Any: likewise
    async def step(
        self, action: NeMoGymResponse, metadata: dict[str, Any], session_id: str | None = None
    ) -> tuple[str | None, float, bool, bool, dict[str, Any]]:
        """Play one turn: the text of a response.

        Returns:
            Observation, reward, terminated, truncated and the environment's info as JSON values; at the end with
            `metrics`. Without an open episode (it is over, or never began): a message that says so, truncated.

        Raises:
            EngineError: the search engine failed. NeMo-Gym 0.4 cannot leave an episode out, and would learn from a
                reward 0; the request fails with status 500.
        """
        session: Session | None = self.session_state.get(session_id)
        if session is None:
            return "There is no open question: it is finished or was never asked. Stop here.", 0.0, False, True, {}
        try:
            step = await session.aturn(extract_text(action))
        except EpisodeError as error:  # a second request for the same session while a search is running
            return str(error), 0.0, False, False, {}
        if step.stop_reason is StopReason.ENGINE_ERROR:
            await self.close_session(session_id)
            raise EngineError(str(step.error))
        info: dict[str, Any] = plain(step_info(step, no_draw(self.source.rules)))
        reason = step.stop_reason
        if reason is None:
            return step.observation, 0.0, False, False, info
        info["metrics"] = episode_metrics(session)
        return None, step.reward, reason.terminates, not reason.terminates, info


# Any: `EnvOptions` gives each argument its type
def make_rows(
    *, seed: int = 0, count: int | None = None, agent: str = "zerosearch_agent", **env_options: Any
) -> list[dict[str, Json]]:
    """Rows of NeMo-Gym's JSONL files, with `responses_create_params` and `agent_ref`; no gold answers.

    Args:
        seed: random seed of the noise.
        count: number of rows, the first questions of the dataset; None: all.
        agent: name of the agent in the configuration.
        **env_options: the server's options, `env`.

    Raises:
        ConfigError: an option is invalid.
        DataError: the dataset cannot be read.
    """
    made = SessionSource.shared(**env_options).rows(seed=seed, count=count)
    reference: dict[str, Json] = {"type": "responses_api_agents", "name": agent}
    return [{"responses_create_params": {"input": row.pop("prompt")}, "agent_ref": reference, **row} for row in made]
