"""TRL's `rollout_func`: `GRPOTrainer` trains on episodes of this package, with exactly the tokens that were sampled.

    source = SessionSource(noise_level=0.5)
    trainer = GRPOTrainer(
        model, reward_funcs=zerosearch_reward, rollout_func=RolloutFunc(source), train_dataset=make_dataset(source), ...
    )

Turns are written in the tags of the source's protocol, and the model needs no chat template. The other way, in which
the model calls tools and TRL samples, is `zerosearch_env.integrations.trl`. Both: docs/frameworks/trl.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from zerosearch_env.checks import check_whole_number
from zerosearch_env.envs.session import Session
from zerosearch_env.envs.sessions import SessionSource
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.integrations.trl import ROW
from zerosearch_env.llm.chat_format import PromptFormat, TurnEncoder
from zerosearch_env.llm.chat_template import shows_episodes
from zerosearch_env.randomness import mix
from zerosearch_env.types import StopReason

from ..policy.card import model_context
from ..policy.lora import Adapter
from ..rollouts.rollout import Rollout, rollout
from ..sampling.local import Sampler

if TYPE_CHECKING:
    from trl.trainer.grpo_trainer import GRPOTrainer

Messages = Sequence[dict[str, Any]]
"""A prompt of a conversational dataset."""


class RolloutFunc:
    """Plays the episodes of a batch with the trainer's own model: the `rollout_func` of a `GRPOTrainer`.

    Every prompt starts the episode of its row (`make_dataset`), so a group of rollouts meets the same noise. Sampling
    is seeded by the trainer's seed, its step and the position in the batch. All episodes of a call are played together.

    - A completion is at most `max_completion_length` tokens long: counted from the end of the longest prompt so far.
    - `env_mask` is 1 for sampled tokens. The log-probabilities are those at the trainer's temperature, 0 elsewhere.
    - TRL takes a completion without an end token for truncated, but an episode ends with `</answer>`. So one that ended
      by its own rules gets the tokenizer's end token, with `env_mask` 0; one that reached the token limit does not.
    - If the search engine failed, the reward is None and nothing of the sample is trained. If it failed in all episodes
      of a call, the call raises.

    Args:
        source: questions, engine and rules; the dataset must be made from the same one.
        turn_tokens: maximum tokens sampled per turn; None: the protocol's number.
        format: how prompts and observations are shown to the model; None: with the tokenizer's chat template if it has
            one that can show an episode, otherwise as plain text.

    Raises:
        ConfigError: an argument is invalid. When called: the trainer's arguments ask for what is not possible here, or
            the prompts are not those of `make_dataset`.
        EngineError: when called: all episodes failed.
    """

    def __init__(
        self, source: SessionSource, *, turn_tokens: int | None = None, format: PromptFormat | None = None
    ) -> None:
        self.source = source
        self._turn_tokens = source.rules.protocol.turn_tokens if turn_tokens is None else turn_tokens
        check_whole_number("turn_tokens", self._turn_tokens)
        self._format = format
        self._model: Any = None
        self._adapter: Adapter | None = None
        self._sampler: Sampler | None = None
        self._slots = 0
        self._step, self._calls = -1, 0

    def __call__(self, prompts: Sequence[Messages], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        """Play one episode per prompt.

        Args:
            prompts: prompts of `make_dataset`.
            trainer: the trainer that calls.

        Returns:
            One entry per prompt in each list: the token ids and masks that TRL reads, and for reward functions
            `episode_reward` (None: left out), `stop_reason`, `searches` and `noisy_searches`.
        """
        sessions = [self._start(prompt) for prompt in prompts]
        episodes = [session.episode for session in sessions]
        tokenizer: Any = trainer.processing_class
        format = self._format or PromptFormat(chat=shows_episodes(tokenizer))
        lengths = [len(ids) for ids in TurnEncoder(tokenizer, self.source.rules, format).prompts(episodes)]
        base = self._seed(trainer)
        model = trainer.accelerator.unwrap_model(trainer.model)
        training = model.training
        model.eval()
        try:
            sampler = self._refreshed(trainer, model, max(lengths), len(prompts))
            seeds = [mix(base, number) for number in range(len(prompts))]
            played = rollout(episodes, self.source.engine, sampler, tokenizer, seeds=seeds, format=format)
            sampler.before_training()
        finally:
            model.train(training)
        failed = [row.error for row in played if row.stop_reason.failed]
        if len(failed) == len(played):
            raise EngineError(f"every search of this batch failed; the first: {failed[0]}")
        return _columns(played, lengths, tokenizer.eos_token_id, {*trainer.eos_token_ids, tokenizer.pad_token_id})

    def _start(self, prompt: Messages) -> Session:
        row = prompt[-1].get(ROW) if isinstance(prompt[-1], dict) else None
        if row is None:
            raise ConfigError(
                f"a prompt does not name its row: {prompt!r:.200}. A rollout_func sees nothing else of the dataset: "
                "make it with zerosearch_env.integrations.trl.make_dataset(source)."
            )
        session = self.source.start_row(row)
        expected = [(message["role"], message["content"]) for message in session.episode.messages]
        got = [(message["role"], message["content"]) for message in prompt]
        if got != expected:
            raise ConfigError(
                f"a prompt of the dataset is {got!r:.200}, but the episode's is {expected!r:.200}. Make the "
                "dataset from the same source. Another instruction is SessionSource(prompt_template=...), a system "
                "message is RolloutFunc(format=PromptFormat(chat=True, system=...))."
            )
        return session

    def _seed(self, trainer: GRPOTrainer) -> int:
        """The sampling seed of this call: another one for every call of a step, the same after a resume."""
        step = int(trainer.state.global_step)
        self._calls = self._calls + 1 if step == self._step else 0
        self._step = step
        return mix(int(trainer.args.seed), step, self._calls, int(trainer.accelerator.process_index))

    # Any: models of Transformers have no common type that torch's checks accept
    def _refreshed(self, trainer: GRPOTrainer, model: Any, longest: int, slots: int) -> Sampler:
        """The sampler, with the trainer's current weights and room for this batch."""
        if model is not self._model:
            check_trainer(trainer)
            self._model, self._sampler = model, None
            self._adapter = Adapter(model) if hasattr(model, "get_base_model") else None
        if self._adapter is not None:
            self._adapter.merge()
        own = model_context(model.config)
        bounds = [own, None if trainer.max_completion_length is None else longest + trainer.max_completion_length]
        context = min((bound for bound in bounds if bound is not None), default=0)
        if not context:
            raise ConfigError("max_completion_length=None, and the model names no context of its own: set it.")
        if longest >= context:
            raise ConfigError(
                f"a prompt has {longest} tokens, and the model's context is {context}: shorten the prompt."
            )
        sampler = self._sampler
        if sampler is not None and sampler.context_tokens >= context and self._slots >= slots:
            sampler.refresh()
            return sampler
        self._slots = slots
        tokenizer: Any = trainer.processing_class
        self._sampler = Sampler(
            model if self._adapter is None else self._adapter.merged,
            tokenizer,
            slots=slots,
            context_tokens=context,
            stop_strings=self.source.stop_strings,
            temperature=float(trainer.temperature),
            turn_tokens=min(self._turn_tokens, context),
        )
        return self._sampler


def check_trainer(trainer: GRPOTrainer) -> None:
    """Check that `RolloutFunc` can sample as the trainer's arguments ask.

    Raises:
        ConfigError: it cannot; the message names the argument and the way out.
    """
    for name, plain in (("top_p", 1.0), ("top_k", 0), ("min_p", None), ("repetition_penalty", 1.0)):
        value = getattr(trainer, name)
        if value not in (plain, None):
            raise ConfigError(
                f"{name}={value!r}: RolloutFunc samples from the whole distribution, whose log-probabilities the loss "
                f"uses. Set {name}={plain!r}."
            )
    if trainer.temperature <= 0:
        raise ConfigError(
            f"temperature={trainer.temperature!r}: groups without chance have equal rewards. Set it above 0."
        )
    if trainer.use_vllm:
        raise ConfigError(
            "use_vllm=True would load a second copy of the model that RolloutFunc does not use: it samples with the "
            "trainer's own model. Set use_vllm=False, or let TRL sample with environment_factory "
            "(zerosearch_env.integrations.trl)."
        )
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
        raise ConfigError(
            "RolloutFunc needs whole weights in every process, but FSDP and DeepSpeed ZeRO-3 shard them. Use data "
            "parallelism or ZeRO-2, or let TRL sample with environment_factory (zerosearch_env.integrations.trl)."
        )


def _columns(
    played: Sequence[Rollout], lengths: Sequence[int], end: int | None, ends: set[int | None]
) -> dict[str, list[Any]]:
    """Rollouts in the form of TRL.

    Args:
        played: the rollouts.
        lengths: number of prompt tokens of each.
        end: the tokenizer's end token.
        ends: the tokens after which TRL takes a completion for complete.
    """
    names = ("prompt_ids", "completion_ids", "env_mask", "logprobs")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for row, length in zip(played, lengths, strict=True):
        failed = row.stop_reason.failed
        ids, mask, logprobs = (part.tolist() for part in (row.token_ids, row.loss_mask, row.logprobs))
        if not (failed or row.stop_reason is StopReason.CONTEXT_LIMIT or end is None or ids[-1] in ends):
            ids, mask, logprobs = [*ids, end], [*mask, False], [*logprobs, 0.0]
        trained = [0 if failed else int(sampled) for sampled in mask[length:]]
        for name, values in zip(names, (ids[:length], ids[length:], trained, logprobs[length:]), strict=True):
            columns[name].append(values)
    columns["episode_reward"] = [None if row.stop_reason.failed else row.scores.reward for row in played]
    columns["stop_reason"] = [str(row.stop_reason) for row in played]
    columns["searches"] = [row.episode.searches for row in played if row.episode is not None]
    columns["noisy_searches"] = [row.noisy_searches for row in played]
    return columns


def zerosearch_reward(
    *,
    episode_reward: list[float | None] | None = None,
    searches: Sequence[int] = (),
    noisy_searches: Sequence[int] = (),
    log_metric: Callable[[str, float], object] | None = None,
    **_: object,
) -> list[float | None]:
    """The rewards of the episodes that `RolloutFunc` played: the reward function of a `GRPOTrainer`.

    With several reward functions, a sample is only left out if all of them return None for it.

    Args:
        episode_reward: from `RolloutFunc`; None for an episode in which the search engine failed.
        searches: from `RolloutFunc`; logged as `zerosearch/searches`, the mean per episode.
        noisy_searches: from `RolloutFunc`; logged as `zerosearch/noisy_searches`.
        log_metric: from TRL.

    Raises:
        ConfigError: the trainer has no `RolloutFunc`.
    """
    if episode_reward is None:
        raise ConfigError("zerosearch_reward reads what RolloutFunc returns: pass rollout_func=RolloutFunc(source).")
    if log_metric is not None:
        for name, values in (("searches", searches), ("noisy_searches", noisy_searches)):
            log_metric(f"zerosearch/{name}", sum(values) / max(1, len(values)))
        log_metric("zerosearch/left_out", sum(reward is None for reward in episode_reward) / len(episode_reward))
    return episode_reward
