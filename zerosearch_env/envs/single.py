"""`ZeroSearchEnv`: the Gymnasium environment, a thin layer around `Episode`."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

from ..engines.run import run_searches
from ..errors import EngineError
from ..game.episode import Episode
from ..types import Info, Step, StopReason
from .curriculum import Curriculum
from .infos import no_draw, step_info
from .options import EnvOptions, takes_env_options
from .reset import NO_OPTIONS, ResetOptions, check_action, draw_episode, read_options
from .setup import METADATA, Setup, SetupViews, make_setup
from .spaces import UnicodeText


class ZeroSearchEnv(SetupViews, gymnasium.Env[str, str]):
    """Search-augmented question answering against a search engine with a controllable noise level.

    ## Description
    The policy reads a question, thinks in text, searches up to a limited number of times, and answers. Some searches
    are *noisy*: their documents are on topic but contain no gold answer. The noise level p is the probability of a
    noisy search; it is fixed or follows a curriculum. A robust policy notices unhelpful documents and searches again.

    The environment works offline without any download: the default dataset is a synthetic world, and the default engine
    searches its passages with BM25.

    ## Action Space
    `UnicodeText`: the policy's text of one turn. Any string is accepted, including the empty one. With the default
    protocol `"zerosearch"` a turn looks like this:

        <think>I need the birthplace first.</think><search>where was Ada Lovelace born</search>
        <think>That says it.</think><answer>London</answer>

    The first complete tag decides. Text without such a tag, an empty query and an empty answer are *invalid*: the turn
    is used up, and the observation says what was expected (protocols without such a notice end the episode). In
    protocols with tools (`hermes`, `deepresearcher`) one turn may search several times. Only the policy's own text is
    parsed; tags inside documents are neutralised. `action_space.sample()` returns well-formed random actions. A sampler
    should stop after any of `stop_strings`.

    ## Observation Space
    `UnicodeText`: the new text for the policy.

    | after | observation |
    |---|---|
    | `reset` | the prompt: the protocol's instruction with the question |
    | a search | the block with the documents; before the last turn also a notice that only an answer counts |
    | an invalid action | a notice of what is expected |
    | the end | empty |

    `zerosearch_env.TranscriptObservation` gives the whole transcript instead.

    ## Rewards
    0 before the end; at the end the reward function of the episode. `"em"`: 1 if the normalised
    prediction equals a normalised gold answer, else 0. `"f1"`: token overlap with the best gold answer. `"subem"`: 1 if
    the prediction contains a gold answer on token boundaries. Without a prediction these three are 0. Prompts, thoughts
    and documents are never scored.

    ## Starting State
    A uniformly drawn question and an episode seed. All randomness derives from `reset(seed=...)`: the k-th search of an
    episode draws one number u and is noisy if u < p. With the same seed, a higher p therefore gives a superset of the
    noisy searches.

    ## Episode End
    `info["stop_reason"]` is a `StopReason`:

    - terminated: `"answer"`, or `"no_action"` for protocols without a notice for invalid turns;
    - truncated: `"max_turns"` (no answer in the last turn), `"too_long"` (the text of a turn was longer than 65,536
      characters), `"engine_error"` (the engine failed after its bounded retries; `info["error"]` holds the reason).

    After `max_turns` turns one more turn follows, which may only answer.

    ## Info
    | key | when | value |
    |---|---|---|
    | `question`, `question_id` | reset | text and id of the question |
    | `noise_level` | reset, step | p of this episode |
    | `progress` | reset | progress of the curriculum, in [0, 1] |
    | `action` | step | `"search"`, `"answer"`, `"invalid"` or `"browse"` (see `deepresearcher`) |
    | `query` | step | the cleaned query; None if the turn was not a search |
    | `documents` | step | tuple of `Document(title, text, source, score)`; empty if the turn was not a search |
    | `noisy` | step | bool; with `noise_unit="document"` a tuple of them. False or empty if the turn was not a search |
    | `queries`, `document_groups`, `noise_flags` | step | the same three for each search of the turn, as tuples |
    | `answer_in_documents` | step | whether the documents contain a gold answer; False if the turn was not a search |
    | `turn` | step | number of turns taken so far, including this one |
    | `stop_reason` | step | None before the end |
    | `prediction` | end | the answer given, or None |
    | `answers` | end | tuple of gold answers; they appear nowhere before the end |
    | `em`, `f1`, `subem`, `em_unicode`, `f1_unicode` | end | these scores, whatever `reward` is |
    | `misled`, `abstained`, `hallucinated` | end | 1.0 or 0.0: the answer is a wrong one that noisy documents were made
      to state; it is one of `abstentions`; it is neither right nor one of them |
    | `noise_kind` | end | tuple with the kind of noise of each search; None for those that were not noisy |
    | `counterfactual` | end | the wrong answer that noisy documents were made to state, or None |
    | the names of `scores` | end | the additional scores; NaN if a score has no value |
    | `searches` | end | number of searches |
    | `error` | end, if the engine failed | the engine's error message |

    `noisy` and `answer_in_documents` are for evaluation only. An agent must not read them. `zerosearch_env.plain(info)`
    gives the info as JSON values.

    ## Arguments
    `gymnasium.make("ZeroSearch-v0", **arguments)`. Every argument has a JSON form, so `env.spec` can be saved and
    loaded again. Python objects are accepted too.

    Args:
        dataset: `"world"` (built in), the path of a file or folder, a hub name, several of these separated by commas,
            a `Dataset`, or a list or table of questions: whatever `load_dataset` accepts.
        split: split of a named dataset.
        on_bad_row: `"raise"` a `DataError` for a bad row, or `"skip"` such rows: `env.unwrapped.dataset.skipped_rows`.
        columns: field (`id`, `question`, `answers`, ...) -> the column that holds it, for files with other names.
        world: options of the built-in world (fields of `WorldConfig`), for example `{"seed": 1, "passages": 2000}`.
        search_engine: `"corpus"`, `"corpus:FILE"`, a mapping `{"kind": ..., **options}`, or a `SearchEngine`. The
            environment closes an engine that it created, but not a `SearchEngine` that you pass.
        noise_schedule: `"exp"`, `"linear"`, `"constant"`, or a callable progress -> p. Not together with `noise_level`.
        noise_start: p at progress 0, for named schedules.
        noise_end: p at progress 1, for named schedules.
        noise_base: base b of the exponential schedule.
        noise_level: a fixed p in [0, 1]. None without a schedule: 0.
        noise_unit: draw noise once per `"search"` or once per `"document"`.
        noise_kind: what a noisy search returns: `"distractor"`, `"irrelevant"`, `"counterfactual"`, `"mixed"`,
            `"empty"`, `"garbled"`, `"markup"`, `"incomplete"`, `"redundant"`, `"outage"`, `"injection"`
            (docs/noise.md), a mixture such as `{"distractor": 0.5, "empty": 0.5}`, or a list of these: the stages of
            the curriculum.
        curriculum_episodes: with a schedule, progress = ended episodes / this, unless `set_progress` was called. An
            episode that a time limit or a reset cut off counts too, if it had at least one turn.
        reward: a name (`"em"`, `"f1"`, `"subem"`, `"ternary"`, ...: docs/rewards.md lists all),
            `"judge:openai:URL"`, or a callable (episode) -> float or (prediction or None, gold answers) -> float.
        scores: additional scores for the info of the last step, each given like `reward`.
        abstentions: answers that count as abstaining, such as `["unknown"]`. None: the usual ones.
        protocol: the tag grammar: `"zerosearch"`, `"search-r1"`, `"r1-searcher"`, `"research"`, `"deepresearcher"`,
            `"hermes"`, or a `Protocol`.
        prompt_template: a string or a file that contains `{question}`, for checkpoints that were trained with another
            instruction; `"dataset"` asks every question with the prompt of its row. None: the protocol's own.
        max_turns: number of turns that may search. None: the protocol's default, 5 for `"zerosearch"`.
        top_k: documents per search. None: the protocol's default, 5 for `"zerosearch"`.
        invalid_notice: the observation after an invalid turn: `"own"` (this package's words), `"reference"` (as in the
            published loop: a notice, or the end of the episode), `"none"` (empty), or a text.
        last_turn_notice: the text that announces the last turn: `"own"`, `"reference"` and `"none"` (no text), or a
            text.
        on_engine_error: `"truncate"` the episode, or `"raise"` an `EngineError`.
        render_mode: `"ansi"` (`render` returns a string), `"human"` (each turn is printed to the terminal), `"html"`
            (`render` returns an HTML fragment).

    Raises:
        ConfigError: an argument is invalid. For an unknown name, the message suggests the most similar valid one.
        DataError: the dataset is empty, or a question has no answer.

    ## Reset options
    `reset(options={"question": index_or_id, "noise_level": p, "progress": x, "noise_kind": kind})`, all optional, for
    this episode only.
    `env.unwrapped.set_progress(x)` sets the progress of the curriculum from the next reset on.

    ## Vectorized environment
    `gymnasium.make_vec("ZeroSearch-v0", num_envs=N)` gives `ZeroSearchVectorEnv`, which plays exactly the episodes of N
    single environments with one engine call per step.

    ## Example
    >>> import gymnasium as gym, zerosearch_env
    >>> env = gym.make("ZeroSearch-v0", dataset=[{"question": "What is the capital of France?", "answers": ["Paris"]}],
    ...                search_engine=zerosearch_env.ConstantEngine())
    >>> observation, info = env.reset(seed=0)
    >>> info["question"], info["noise_level"]
    ('What is the capital of France?', 0.0)
    >>> observation, reward, terminated, truncated, info = env.step("<search>capital of France</search>")
    >>> info["action"], info["query"], len(info["documents"]), reward, terminated
    ('search', 'capital of France', 5, 0.0, False)
    >>> observation, reward, terminated, truncated, info = env.step("<answer>Paris</answer>")
    >>> reward, terminated, info["stop_reason"].value, info["answers"]
    (1.0, True, 'answer', ('Paris',))

    ## Version History
    - v0: first version.
    """

    # Any: Gymnasium declares it so
    metadata: ClassVar[dict[str, Any]] = dict(METADATA)  # type: ignore[misc]

    @takes_env_options
    def __init__(self, options: EnvOptions) -> None:
        self._options = options
        self._setup: Setup = make_setup(options)
        self._curriculum = Curriculum(self._setup.options.curriculum_episodes)
        self._episode: Episode | None = None
        self._started: tuple[int | None, ResetOptions] = (None, NO_OPTIONS)
        self._closed = False
        self._shown = 0
        self._unset = no_draw(self._setup.rules)
        self.render_mode = options.render_mode
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText(protocol=self._setup.rules.protocol)

    @property
    def episode(self) -> Episode:
        """The current episode, or the one that has just ended.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._episode is None:
            raise ResetNeeded("There is no episode yet: call env.reset() first.")
        return self._episode

    # Any: Gymnasium declares it so
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Start an episode.

        Args:
            seed: seeds the environment's random generator again; questions and noise are drawn from it.
            options: `question` (index or id), `noise_level`, `progress`, `noise_kind`, each for this episode only. The
                dict is not changed.

        Returns:
            The prompt and the info; see the class.

        Raises:
            ConfigError: an option is unknown or has an invalid value; the current episode continues.
            gymnasium.error.ClosedEnvironmentError: the environment was closed.
        """
        if self._closed:
            raise ClosedEnvironmentError("This environment was closed: make a new one with gymnasium.make().")
        checked = read_options(self._setup, options)
        super().reset(seed=seed)
        started = (seed, checked)
        if seed is None or started != self._started:  # otherwise the same episode starts again
            self._curriculum.count_abandoned(self._episode)
        self._started = started
        episode, info = draw_episode(self._setup, self.np_random, self._curriculum.value, checked)
        self._episode = episode
        self._shown = 0
        if self.render_mode == "human":
            self._show()
        return episode.prompt, info

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Play one turn.

        Args:
            action: the policy's text of this turn.

        Returns:
            Observation, reward, terminated, truncated and info; see the class.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset, or after the end of the episode.
            gymnasium.error.InvalidAction: the action is not a string.
            EngineError: the engine failed and `on_engine_error="raise"`; the episode is over.
        """
        episode = self._episode
        if episode is None or episode.stop_reason is not None:
            raise ResetNeeded(_reset_message(episode))
        step = episode.advance(check_action(action))
        attempts = 1
        if not isinstance(step, Step):
            results = run_searches(self._setup.engine, episode.requests)
            attempts = max(result.attempts for result in results)
            step = episode.observe(results)
        if self.render_mode == "human":
            self._show()
        reason = step.stop_reason
        if reason is None:
            return step.observation, 0.0, False, False, step_info(step, self._unset)
        self._curriculum.ended += 1
        if reason is StopReason.ENGINE_ERROR and self._setup.options.on_engine_error == "raise":
            raise EngineError(str(step.error), attempts)
        terminated = reason.terminates
        return step.observation, step.reward, terminated, not terminated, step_info(step, self._unset)

    def render(self) -> str | None:
        """Render the episode so far in the environment's render mode.

        Returns:
            `"ansi"`: a string with terminal colours. `"html"`: an HTML fragment. `"human"`: None; the parts not printed
            yet are printed. Without a render mode: None, with a warning.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self.render_mode is None:
            gymnasium.logger.warn(
                "render() was called without a render mode: give one to gymnasium.make(), "
                'for example gymnasium.make("ZeroSearch-v0", render_mode="ansi").'
            )
            return None
        if self.render_mode == "human":
            self._show()
            return None
        from ..records.html import render_html
        from ..records.terminal import render_ansi
        from ..records.transcripts import transcript_record

        return (render_ansi if self.render_mode == "ansi" else render_html)(transcript_record(self.episode))

    def _show(self) -> None:
        """Print the parts of the episode that were added since the last call."""
        from ..records.terminal import print_new
        from ..records.transcripts import transcript_record

        self._shown = print_new(transcript_record(self.episode), self._shown)

    def close(self) -> None:
        """Close the engine if the environment created it. Further calls do nothing."""
        if not self._closed:
            self._closed = True
            self._episode = None
            if self._setup.owns_engine:
                self._setup.engine.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> ZeroSearchEnv:
        """A copy with its own episode and random generator, for lookahead. Dataset, rules and engine are shared."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        memo[id(self._setup)] = replace(self._setup, owns_engine=False)
        for shared in (self._setup.rules, self._setup.dataset, self._setup.engine, self._options):
            memo[id(shared)] = shared
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """The state without the parts that can be recreated from the options."""
        return {key: value for key, value in self.__dict__.items() if key != "_setup"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Recreate dataset, rules and engine from the options; the episode continues where it was."""
        self.__dict__.update(state)
        self._setup = make_setup(self._options)


def _reset_message(episode: Episode | None) -> str:
    if episode is None:
        return "step() was called before reset(): start with `observation, info = env.reset(seed=0)`."
    return (
        f"step() was called after the end of the episode (stop_reason={str(episode.stop_reason)!r}): "
        "call reset() for the next one."
    )
