"""What known faults of search-RL code do to a run: the same start, the same tasks, the same steps, one fault each.

The faults exist in this file alone. Each replaces one pure function of a training step while its run goes on:

- `kl-subtracted`: the KL to the initial policy is taken off the loss, as the released ZeroSearch code does (dp_actor.py
  271), so that divergence is sought instead of avoided;
- `re-tokenised`: the text of every turn is decoded and encoded again before training, as there (generation.py 171-192),
  special tokens lost;
- `documents-trained`: what the search engine returned is trained on as if the policy had written it.

All runs recompute the log-probabilities before the first update, as the reference does, so that a fault changes what
is trained on and nothing else. Every seed is reported as it came out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .measure import default_output, machine

if TYPE_CHECKING:
    from zerosearch_agents.batch import Sample
    from zerosearch_agents.config import TrainConfig
    from zerosearch_agents.learner import Learner
    from zerosearch_agents.rollout import Rollout

LIBRARIES = ("torch", "transformers", "numpy")
BEHAVIOURS = ("ours", "kl-subtracted", "re-tokenised", "documents-trained")
LAST = 3
"""Steps at the end of a run over which its figures are averaged."""
Groups = list[list["Sample"]]


def setting(seed: int, output: Path, steps: int, kl_coefficient: float, learning_rate: float) -> TrainConfig:
    """The configuration that all behaviours share: the quickstart's start and tasks, smaller and without noise."""
    from zerosearch_agents.config import load_preset

    config = load_preset("quickstart")
    return replace(
        config,
        seed=seed,
        output=str(output),
        steps=steps,
        workers=1,
        data=replace(config.data, world=replace(config.data.world, hops=(1,))),
        environment=replace(config.environment, max_turns=2),
        curriculum=replace(config.curriculum, start=0.0, end=0.0),
        rollout=replace(config.rollout, prompts=4, group_size=8),
        algorithm=replace(config.algorithm, recompute_logprobs=True, kl_coefficient=kl_coefficient, minibatches=4),
        optimizer=replace(config.optimizer, learning_rate=learning_rate, warmup_steps=2, final_fraction=1.0),
        files=replace(config.files, checkpoint_every=None, transcripts_every=None),
    )


@contextlib.contextmanager
def behaviour(name: str) -> Iterator[None]:
    """Training inside the block has this fault; `"ours"` has none."""
    from zerosearch_agents import objective, trainer

    module, attribute = (objective, "kl_loss") if name == "kl-subtracted" else (trainer, "score")
    original = getattr(module, attribute)
    faulty = {
        "ours": original,
        "kl-subtracted": lambda *arguments: -original(*arguments),
        "re-tokenised": _changing(original, retokenised),
        "documents-trained": _changing(original, lambda learner, rollout: with_documents(rollout)),
    }[name]
    setattr(module, attribute, faulty)
    try:
        yield
    finally:
        setattr(module, attribute, original)


def _changing(score: Callable[..., Groups], change: Callable[[Learner, Rollout], Rollout]) -> Callable[..., Groups]:
    """`scoring.score` on changed rollouts; the log-probabilities of the changed tokens are the learner's own."""

    def changed(learner: Learner, groups: Sequence[Sequence[Sample]]) -> Groups:
        new = [[replace(one, rollout=change(learner, one.rollout)) for one in group] for group in groups]
        return [[_own_logprobs(one) for one in group] for group in score(learner, new)]

    return changed


def _own_logprobs(sample: Sample) -> Sample:
    assert sample.old_logprobs is not None
    logprobs = np.zeros(len(sample.rollout.token_ids), dtype=np.float32)
    logprobs[sample.rollout.loss_mask] = sample.old_logprobs
    return replace(sample, rollout=replace(sample.rollout, logprobs=logprobs))


def with_documents(rollout: Rollout) -> Rollout:
    """The rollout with a mask that lets everything behind the prompt into the loss."""
    mask = rollout.loss_mask.copy()
    mask[int(np.argmax(mask)) :] = True
    return replace(rollout, loss_mask=mask)


def retokenised(learner: Learner, rollout: Rollout) -> Rollout:
    """The rollout with every turn decoded without special tokens and encoded again."""
    tokenizer = learner.policy.tokenizer
    ids, mask = rollout.token_ids, rollout.loss_mask
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    new_ids: list[int] = []
    new_mask: list[bool] = []
    end = 0
    for start, stop in edges.reshape(-1, 2).tolist():
        text = tokenizer.decode(ids[start:stop].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        again = tokenizer(text, add_special_tokens=False)["input_ids"]
        for part, sampled in ((ids[end:start].tolist(), False), (again, True)):
            new_ids += part
            new_mask += [sampled] * len(part)
        end = stop
    new_ids += ids[end:].tolist()
    new_mask += [False] * (len(ids) - end)
    room = learner.sampler.context_tokens
    return replace(
        rollout,
        token_ids=np.array(new_ids[:room], dtype=np.int32),
        loss_mask=np.array(new_mask[:room], dtype=np.bool_),
        logprobs=np.zeros(len(new_ids[:room]), dtype=np.float32),
    )


def run_one(name: str, config: TrainConfig) -> dict[str, Any]:
    """One run; where an earlier call has left it, or a shorter one, it goes on from there.

    Returns:
        Behaviour, seed, what ended it, CPU seconds, the alarms that were on at its end, and the metrics of every step.
    """
    from zerosearch_agents.alarms import find_alarms
    from zerosearch_agents.config import config_differences, read_config
    from zerosearch_agents.metrics import read_metrics
    from zerosearch_agents.trainer import train
    from zerosearch_env.errors import TrainingError

    row_file, saved = Path(config.output) / "row.json", Path(config.output) / "config.toml"
    row: dict[str, Any] = {"steps": (), "cpu_seconds": 0.0}
    # neither the rate nor the noise depends on the number of steps, so a longer run begins as a shorter one
    same = saved.is_file() and not config_differences(replace(read_config(saved), steps=config.steps), config)
    if same and row_file.is_file():
        row = json.loads(row_file.read_text("utf-8"))
        if len(row["steps"]) >= config.steps or row["ended"] != "finished":
            return row
    began, ended = time.process_time(), "finished"
    with behaviour(name):
        try:
            train(config, resume=same, force=same, overwrite=not same)
        except TrainingError as error:
            ended = str(error)
    history = read_metrics(Path(config.output) / "metrics.jsonl")
    kept = ("step", "reward", "entropy", "kl", "invalid_rate", "clip_fraction", "update_kl", "turn_tokens")
    row = {
        "behaviour": name,
        "seed": config.seed,
        "ended": ended,
        "cpu_seconds": round(row["cpu_seconds"] + time.process_time() - began, 1),
        "alarms": [str(alarm) for alarm in find_alarms(config.alarms, history)],
        "steps": [{metric: record[metric] for metric in kept if metric in record} for record in history],
    }
    row_file.write_text(json.dumps(row) + "\n", "utf-8")
    return row


def summary(row: dict[str, Any]) -> dict[str, float]:
    """Means over a run's last steps, and its best mean of as many steps in a row."""
    steps = row["steps"]
    last = steps[-LAST:]
    rewards = [step.get("reward", 0.0) for step in steps]
    best = max(statistics.mean(rewards[i : i + LAST]) for i in range(max(len(rewards) - LAST + 1, 1)))
    means = {
        name: statistics.mean(values)
        for name in ("reward", "invalid_rate", "entropy", "kl", "turn_tokens")
        if (values := [step[name] for step in last if name in step])
    }
    return {"best": best, **means}


def markdown(record: dict[str, Any]) -> str:
    """A table, behaviours down: every seed's figures as they came out, and the mean of the rewards."""
    rows, options = record["runs"], record["options"]
    lines = [
        f"{options['steps']} steps of 4 questions x 8 episodes, learning rate {options['learning_rate']:g}, "
        f"KL coefficient {options['kl_coefficient']:g}, from the shipped base model; one-hop questions, no noise. "
        f"Each cell: every seed ({', '.join(map(str, options['seeds']))}) as it came out, mean of the last {LAST} "
        "steps; the reward's mean over the seeds in bold.",
        "",
        "| behaviour | reward at the end | best reward | turns without action, % | entropy, nats | KL to the start | "
        "alarm at the end | steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["behaviour"] for row in rows):
        mine = [row for row in rows if row["behaviour"] == name]
        figures = [summary(row) for row in mine]

        def each(metric: str, style: str, figures: list[dict[str, float]] = figures, scale: float = 1.0) -> str:
            return " ".join(format(scale * f[metric], style) if metric in f else "-" for f in figures)

        mean = statistics.mean(f.get("reward", 0.0) for f in figures)
        alarms = sum(bool(row["alarms"]) for row in mine)
        lines.append(
            f"| {name} | {each('reward', '.2f')}, **{mean:.2f}** | {each('best', '.2f')} | "
            f"{each('invalid_rate', '.0f', scale=100.0)} | {each('entropy', '.2f')} | {each('kl', '.3g')} | "
            f"{alarms} of {len(mine)} | {' '.join(str(len(row['steps'])) for row in mine)} |"
        )
    broken = [f"- {row['behaviour']}, seed {row['seed']}: {row['ended']}" for row in rows if row["ended"] != "finished"]
    image = ["", "![Reward over training steps: every seed pale, their mean strong](stability.svg)"]
    return "\n".join([*lines, *([""] if broken else []), *broken, *image]) + "\n"


_STYLE = (
    "svg{background:#fdfdfc;--s-other1:#0a5cad;--s-other2:#c2500a;--s-other3:#0c7f5f;--s-other4:#a03a8c}"
    "text{fill:#585e68;font:12.5px sans-serif}.gridline{stroke:#eceef1}.tickmark{stroke:#585e68}"
    ".line{fill:none;stroke:var(--c);stroke-width:2.2}.line.faint{stroke-width:1;opacity:.4}"
)
"""The page of a report brings its own; a file that stands alone must hold it."""


def plot(record: dict[str, Any]) -> str:
    """Reward over steps as one SVG file: every seed pale, their mean strong."""
    from zerosearch_agents.report_charts import Axis, Point, Series, fitted_axis, line_chart, share_axis

    series: list[Series] = []
    names = list(dict.fromkeys(row["behaviour"] for row in record["runs"]))
    longest = max(len(row["steps"]) for row in record["runs"])
    for index, name in enumerate(names, start=1):
        curves = [[step.get("reward", 0.0) for step in r["steps"]] for r in record["runs"] if r["behaviour"] == name]
        shared = zip(*curves, strict=False)
        lines = [(curve, True) for curve in curves] + [([statistics.mean(at) for at in shared], False)]
        for values, faint in lines:
            points = tuple(Point(step, value) for step, value in enumerate(values, start=1))
            series.append(Series(name, f"other{index}", points, markers=False, faint=faint))
    x, share = fitted_axis("training step", [0.0, longest]), share_axis("reward")
    y = Axis("reward", 0.0, 1.0, share.ticks, lambda value: f"{value:g}")
    chart = line_chart(sorted(series, key=lambda one: not one.faint), x, y, title="Reward over training steps")
    legend, at = "", 52.0
    for index, name in enumerate(names, start=1):
        legend += f'<text x="{at:.0f}" y="11" style="fill:var(--s-other{index})">{name}</text>'
        at += 6.6 * len(name) + 18
    head, _, body = chart.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{_STYLE}</style>{legend}{body}\n'


def main(argv: list[str] | None = None) -> int:
    """Runs every behaviour for every seed, writing record, table and plot after each run, and prints the table."""
    parser = argparse.ArgumentParser(prog="zerosearch bench stability", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--steps", type=int, default=16, help="training steps of each run (16)")
    parser.add_argument("--kl-coefficient", type=float, default=0.2, help="weight of the KL (0.2)")
    parser.add_argument("--learning-rate", type=float, default=4e-4, help="learning rate (4e-4, the quickstart's)")
    parser.add_argument("--behaviours", nargs="+", choices=BEHAVIOURS, default=list(BEHAVIOURS), help="which (all)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/stability"), help="folder of the runs; finished ones stay"
    )
    parser.add_argument("--output", type=Path, default=default_output("stability"), help="the JSON record")
    arguments = parser.parse_args(argv)
    options = {name: getattr(arguments, name) for name in ("seeds", "steps", "kl_coefficient", "learning_rate")}
    rows: list[dict[str, Any]] = []
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"options": options, "machine": machine(LIBRARIES), "runs": rows}
    for seed in arguments.seeds:
        for name in arguments.behaviours:
            output = arguments.runs / f"{name}-{seed}"
            config = setting(seed, output, arguments.steps, arguments.kl_coefficient, arguments.learning_rate)
            rows.append(run_one(name, config))
            arguments.output.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
            arguments.output.with_suffix(".md").write_text(markdown(record), "utf-8")
            arguments.output.with_suffix(".svg").write_text(plot(record), "utf-8")
    print(markdown(record))
    return 0
