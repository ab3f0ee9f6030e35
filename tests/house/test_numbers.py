"""Every measured number of README and docs/ is the one in its record: a new record cannot leave a stale sentence.

`PUBLISHED` writes the sentences and table rows that hold measured numbers, from benchmarks/results/*.json. The page
must contain each of them word for word, line breaks aside. What is then left of a page may hold a number with a unit,
or a decimal fraction, only if `SETTINGS` says what it is: an option, a definition, a bound that a test asserts.

After a new record: run this file and copy the sentences that it prints into the pages. For a new measured sentence:
add it here, as an f-string over its record. All sentences are in one file, where a new record's can be found.
"""

from __future__ import annotations

import difflib
import json
import re
import statistics
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from zerosearch_agents.config.train import load_preset
from zerosearch_agents.evaluation.statistics import wilson
from zerosearch_agents.plan.cli import find_architecture
from zerosearch_agents.plan.estimate import Hardware, Load, context_tokens, make_plan
from zerosearch_agents.report.exports import markdown_text
from zerosearch_benchmarks.learning.real_llm.table import markdown
from zerosearch_benchmarks.learning.stability.table import summary
from zerosearch_benchmarks.robustness.leaderboard import page as leaderboard_page
from zerosearch_benchmarks.robustness.records import read_records

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = {page.name: page for page in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]}
# Two pages may have one name: that of the one in a folder is then its path, such as "frameworks/scale.md".
PAGES |= {
    page.name if page.name not in PAGES else page.relative_to(DOCS).as_posix(): page for page in DOCS.glob("*/*.md")
}
RESULTS = ROOT / "benchmarks" / "results"
SIMULATOR = ROOT / "zerosearch_env" / "assets" / "simulator-tiny" / "model.safetensors"


@cache
def record(name: str) -> Any:
    """The record of a benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def rounded(value: float) -> str:
    """Three digits and thousands separators: 17,300 or 4,560 or 421."""
    return f"{float(f'{value:.3g}'):,.0f}"


def percent(interval: dict[str, float], digits: int = 1) -> str:
    """A share with its interval, in %: 94.5 % [92.4, 96.1]; no digits after a zero."""
    mean, low, high = (f"{100 * interval[key]:.{digits}f}" if interval[key] else "0" for key in ("mean", "low", "high"))
    return f"{mean} % [{low}, {high}]"


def exact_match(agent: str, group: str, noise: float, engine: str = "corpus") -> list[str]:
    """Exact match in % of every seed of the quickstart."""
    return [
        f"{100 * cell['em']['mean']:.0f}"
        for run in record("learning")["runs"]
        for cell in run["cells"]
        if (cell["agent"], cell["group"], cell["noise"], cell["engine"]) == (agent, group, noise, engine)
    ]


def quickstart() -> Iterator[str]:
    """README: both tables of the quickstart, and its time."""
    rows = {"before": "before training", "after": "**after training**", "rag": "one-search RAG, same model"}
    for group in ("1-hop", "2-hop"):
        for agent, title in rows.items():
            cells = [", ".join(exact_match(agent, group, noise)) for noise in (0.0, 0.25, 0.5, 0.75, 1.0)]
            cells = [f"**{cell}**" if agent == "after" and cell != "0, 0, 0" else cell for cell in cells]
            yield f"| {title} | {' | '.join(cells)} |"
    hops = {
        group: ", ".join(exact_match("after", group, 0.0, "bm25, train and test passages"))
        for group in ("1-hop", "2-hop")
    }
    yield f"it still scores {hops['1-hop']} (1-hop) and {hops['2-hop']} (2-hop)"
    learning = record("learning")
    times, machine = [f"{run['seconds']:.0f}" for run in learning["runs"]], learning["machine"]
    where = f"{machine['cores']} cores of an {machine['processor']}"
    yield f"these three runs took {', '.join(times[:-1])} and {times[-1]} s on {where}"


def speed() -> Iterator[str]:
    """README: the table of speeds."""
    real_text = record("env-real-text")
    step, times_peer = real_text["timings"], real_text["ratios"]
    for title, name, peers in (
        ("environment step, 256 together", "vector, 256", {"GEM": "GEM vector, 256", "skyrl-gym": "skyrl-gym, 256"}),
        ("environment step, one environment", "gym.make", {"GEM": "GEM"}),
    ):
        for case, what in (name, title), (f"{name}, answer_in_documents read", "the same, `answer_in_documents` read"):
            times = ", ".join(f"{peer}: {step[key]['median']:.0f} µs" for peer, key in peers.items())
            ratios = ", ".join(f"{1 / times_peer[f'{case} / {key}']:.1f}x" for key in peers.values())
            yield f"| {what} | {step[case]['median']:.0f} µs | {times} | {ratios} |"
    scale = record("corpus-scale")["sizes"] if (RESULTS / "corpus-scale.json").is_file() else []
    for entry in scale:
        rate = {kind: rounded(per_second) for kind, per_second in entry["queries_per_cpu_s"].items()}
        measured = [(title, case, ratio) for title, case, ratio in SEARCH_PEERS if case in rate]
        yield (
            f"| corpus engine, {entry['passages']:,} passages of recombined real text | {rate[OURS]} queries/s "
            f"| {', '.join(f'{title}: {rate[case]}' for title, case, _ in measured)} "
            f"| {', '.join(f'{entry[ratio]:.1f}x' for _, _, ratio in measured)} |"
        )
    texts = record("world-generation")["passages_per_cpu_second"]["6,000 passages"]
    yield f"| synthetic world, texts | {rounded(texts)} passages/s | | |"
    sampler = record("sampler")
    rate = {name: f"{1e6 / timing['median']:,.0f}" for name, timing in sampler["timings"].items()}
    yield (
        f"| {rate['sampler, equal']} / {rate['sampler, varied']} tokens/s | `generate` from scratch each turn: "
        f"{rate['generate from scratch, equal']} / {rate['generate from scratch, varied']} "
        f"| {sampler['equal']['ratio']:.1f}x / {sampler['varied']['ratio']:.1f}x |"
    )
    for name, title, peer, digits, memory in (
        ("float32", "optimisation step, every completion token trained", "TRL 1.16: ", 1, " of its memory"),
        ("bfloat16", "the same in bfloat16, on a processor with AVX-512 BF16", "", 1, ""),
        ("search", "optimisation step on search rollouts, vocabulary 151,936", "", 0, ""),
    ):
        case = record("learner")["cases"][name]
        ours, trl = (case[side]["tokens_per_cpu_s"] for side in ("ours", "trl"))
        yield (
            f"| {title} | {ours:,.0f} tokens/s | {peer}{trl:.0f} "
            f"| {case['ratio']:.{digits}f}x, {case['memory_ratio']:.2f}{memory} |"
        )
    rollouts = record("rollouts")["simulated"]
    lock_step = statistics.median(row["lock_step_s"] / row["lower_bound_s"] for row in rollouts["rows"])
    yield f"| {rollouts['ours / lower bound']:.2f} | lock-step: {lock_step:.2f} | {rollouts['lock-step / ours']:.1f}x |"


OURS = "corpus engine, useful"
SEARCH_PEERS = ("bm25s", "bm25s retrieve", "times_bm25s"), ("Tantivy", "Tantivy search", "times_tantivy")


def readme() -> Iterator[str]:
    """README."""
    yield from quickstart()
    yield from speed()
    yield f"a simulation LLM of {SIMULATOR.stat().st_size / 1e6:.1f} MB"


def optimisation_step() -> Iterator[str]:
    """The table, the agreement of the gradients, and the memory as the work grows."""
    cases = record("learner")["cases"]
    for name, times in (("float32", " of the memory"), ("bfloat16", ""), ("search", "")):
        for side, title in (("ours", "here"), ("trl", "TRL")):
            row = cases[name][side]
            ratios = f"{cases[name]['ratio']:.2f} times, {cases[name]['memory_ratio']:.2f}{times} |"
            yield (
                f"| {title} | {row['tokens_per_cpu_s']:,.0f} | {100 * row['mfu']:.0f} % | {row['peak_mib']:,.0f} MiB | "
                + (ratios if side == "ours" else "|")
            )
    norms = [abs(case["ours"]["gradient_norm"] / case["trl"]["gradient_norm"] - 1) for case in cases.values()]
    yield f"the same gradient norm to {100 * max(norms):.1f} %"
    peaks = {(row["sequences"], row["longest"]): row for row in record("learner")["memory"]}
    yield (
        f"({peaks[8, 512]['before_mib']:.0f} MiB before the first step) is {peaks[8, 512]['peak_mib']:,.0f} MiB for "
        f"8 rollouts of up to 512 tokens, {peaks[32, 512]['peak_mib']:,.0f} for 32 of them, and "
        f"{peaks[8, 2048]['peak_mib']:,.0f} for 8 of up to 2,048"
    )
    group, ours = record("learner-model")["cases"]["group"], record("learner-model")["cases"]["group"]["ours_over"]
    row = group["sides"]["ours"]
    yield f"the update makes {row['tokens_per_cpu_s']:.0f} tokens per CPU-second: {ours['ours unshared']:.2f} times"
    yield f"{ours['trl']:.2f} times as many as TRL with {group['peer_micro_batch']} rollouts per micro-batch"
    yield f"{ours['plain']:.2f} times as many as Transformers alone"
    yield f"{row['peak_mib']:,.0f} MiB, {group['memory_ratio']['trl']:.2f} of TRL's"
    search = record("learner-model")["cases"]["search"]
    row, ours = search["sides"]["ours"], search["ours_over"]
    yield (
        f"{row['tokens_per_cpu_s']:.0f} tokens per CPU-second, {ours['trl']:.2f} times as many as TRL with "
        f"{search['peer_micro_batch']} rollout per micro-batch and {ours['plain']:.2f} times as many as Transformers "
        f"alone, with a peak of {row['peak_mib']:,.0f} MiB, {search['memory_ratio']['trl']:.2f} of TRL's"
    )
    trials = search["peer_trial_cpu_s"]
    yield f"with 4 rollouts per micro-batch TRL was {100 * (trials['4'] / min(trials.values()) - 1):.0f} % slower"
    yield f"The sampler is {record('sampler-model')['ratio']:.2f} times as fast as `model.generate`"


def samplers() -> Iterator[str]:
    """The sampler against `generate`, and both tables of rollouts."""
    equal, varied = record("sampler")["equal"], record("sampler")["varied"]
    yield (
        f"{equal['ratio']:.2f} times as fast with equal turns, {varied['ratio']:.2f} times with unequal ones, at "
        f"{100 * equal['of_limit']:.0f} and {100 * varied['of_limit']:.0f} % of the limit"
    )
    simulated, slept = record("rollouts")["simulated"], record("rollouts")["slept"]
    yield (
        f"| simulated time, {simulated['seeds']} workloads | {simulated['ours / lower bound']:.3f} "
        f"| {simulated['lock-step / ours']:.2f} | {simulated['stream: lock-step / ours']:.2f} |"
    )
    yield (
        f"| real sleeps (median latency {slept['median_s']} s), {slept['seeds']} workloads "
        f"| {slept['ours / lower bound']:.3f} | {slept['lock-step / ours']:.2f} | not run |"
    )
    for row in record("rollouts")["steps"]:
        gains = f"{row['max_staleness 1']:.2f} | {row['max_staleness 2']:.2f}"
        yield f"| {row['update / rollouts']:g} | {gains} |"
    # Five steps; the first batch overlaps with no update.
    yield f"at most {10 / 6:.2f} is possible in five steps; with updates twice as long, {15 / 11:.2f}"


def scale() -> Iterator[str]:
    """The table of presets: `zerosearch plan`."""
    for name in ("qwen2.5-3b", "llama-3.2-3b", "qwen3-4b", "qwen2.5-7b", "qwen3-8b"):
        config = load_preset(f"{name}-zerosearch")
        assert (config.optimizer.dtype, config.optimizer.gradient_checkpointing) == ("bfloat16", True)
        model, episode = find_architecture(config.policy), context_tokens(config) // 2
        cells = []
        for gpus in (1, 4, 8, 16):
            plan = make_plan(
                model, config, Hardware(), Load(gpus, episode, episode // 4, bf16=True, checkpointing=True)
            )
            size, seconds = sum(plan.memory_bytes.values()) / 1e9, sum(plan.seconds.values())
            cells.append(f"{size:.0f}{'' if plan.fits else ' (no)'}, {seconds:.0f} s")
        yield f"| `{name}-zerosearch` | {' | '.join(cells)} |"
    hardware = Hardware()
    yield f"Times assume {hardware.mfu:.0%}".replace("%", " %")
    yield f"for decoding {hardware.bandwidth_share:.0%}".replace("%", " %")


PRICE = 2.95
"""Dollars per hour of an H100; docs/frameworks/scale.md names the source."""


def frameworks_scale() -> Iterator[str]:
    """Time and money of a run: arithmetic from `zerosearch plan` and the price of a GPU."""
    for name in ("qwen2.5-3b", "qwen2.5-7b", "qwen3-8b"):
        config = load_preset(f"{name}-zerosearch")
        model, episode = find_architecture(config.policy), context_tokens(config) // 2
        for gpus in (8, 16):
            plan = make_plan(
                model, config, Hardware(), Load(gpus, episode, episode // 4, bf16=True, checkpointing=True)
            )
            seconds = sum(plan.seconds.values())
            hours = config.steps * seconds / 3600
            dollars = gpus * PRICE * hours
            yield (
                f"| `{name}-zerosearch` | {gpus} | {seconds:.0f} s | {rounded(plan.tokens_per_second)} "
                f"| ${dollars / config.steps:.2f} | {config.steps} | {hours:.1f} h, ${dollars:.0f} |"
            )
            if (name, gpus) == ("qwen2.5-7b", 8):
                searches = config.rollout.prompts * config.rollout.group_size * config.environment.max_turns
                decode, tokens = plan.seconds["decode"], 600 * searches
                yield (
                    f"With `qwen2.5-7b-zerosearch` a step has at most {searches:,} searches. They come during the "
                    f"{decode:.0f} s of decoding that the plan gives for 8 GPUs: {searches / decode:.0f} searches/s"
                )
                alone = tokens / 12_500
                yield f"at most {tokens / 1e6:.2f} million tokens"
                yield f"{alone:.0f} s for all of them on one GPU, so {alone / seconds:.1f} GPUs keep up"


def serve() -> Iterator[str]:
    """The load test."""
    loads = record("serve")["medians"]
    single, unbatched, batched = (
        loads[name] for name in ("one client, one by one", "all clients, batches of one", "all clients, batched")
    )
    yield (
        f"With an engine that takes {record('serve')['engine_call_ms']:.0f} ms per call, "
        f"{batched['clients']} concurrent clients get {batched['requests_per_second']:,.0f} requests/s without an "
        f"error, at {batched['requests_per_engine_call']:.0f} searches per call. Clients one after another get "
        f"{single['requests_per_second']:.0f}, and {unbatched['clients']} clients without batches "
        f"{unbatched['requests_per_second']:.0f}"
    )
    times = record("serve")["times_peer"]["requests/s"]
    yield f"it answers {times['1 client']} times as many requests per second for one client"
    yield f"{times['32 clients']} times for 32 and {times['200 clients']} times for 200"


def openenv() -> Iterator[str]:
    """Memory and CPU time of the OpenEnv server."""
    memory, clients = record("openenv")["memory"], record("openenv")["clients"]
    yield (
        f"{memory['sessions']:,.0f} sessions in the middle of an episode take {memory['mb_with_sessions']:.0f} MB, "
        f"of which {memory['mb_before']:.0f} MB are there without them"
    )
    for who, ratios in (
        ("the server answers", list(clients.values())),
        ("without a search, it answers", [client["without_searches"] for client in clients.values()]),
    ):
        calls, cpu = (
            "{}, {} and {}".format(*(ratio[key] for ratio in ratios))
            for key in ("calls_per_second_ratio", "server_cpu_ratio")
        )
        yield f"{who} {calls} times as many calls per second as the echo environment, with {cpu} times its CPU time"


def endpoint() -> Iterator[str]:
    """The throughput and the CPU time of a model behind an endpoint."""
    measured = record("endpoint")
    middle = measured["medians"]["16 at once"]
    yield (
        f"With {measured['turn_ms']:.0f} ms per turn, {middle['concurrency']} at once reach "
        f"{middle['of_ideal']:.0%} of the ideal, at "
        f"{middle['cpu_ms']:.1f} ms of CPU time per turn, of which aiohttp alone takes {middle['aiohttp_ms']:.1f} ms"
    ).replace("%", " %")


def noise() -> Iterator[str]:
    """What kinds of noise cost, and what they do."""
    yield from kinds_of_noise()
    measured = record("corpus-episodes")
    kinds = measured["kinds"]
    made = {kind: cost["distractor"] for kind, cost in kinds.items() if kind not in ("distractor", "empty", "outage")}
    cheapest, dearest = min(made, key=made.__getitem__), max(made, key=made.__getitem__)
    yield (
        f"a noisy search over {measured['passages']:,} passages takes between {made[cheapest]:.2f} (`{cheapest}`) and "
        f"{made[dearest]:.2f} times (`{dearest}`) the CPU time of one with distractors, which itself takes "
        f"{kinds['distractor']['useful']:.1f} times that of a search without noise"
    )


def kinds_of_noise() -> Iterator[str]:
    """What kinds of noise do to a policy, and what training on them and the ternary reward change."""
    made = record("kinds")
    rows = {(row["policy"], row["kind"], row["noise"]): row for row in made["figures"] if row["questions"] == "all"}
    kinds = list(dict.fromkeys(kind for _, kind, _ in rows))

    def percent(metric: str, policy: str, kind: str, level: float = 0.5) -> str:
        return str(round(100 * rows[policy, kind, level][metric]["mean"]))

    trained = ("shipped", "distractors", "mixture")
    for kind, level in [(kinds[0], 0.0), *((kind, 0.5) for kind in kinds)]:
        cells = [percent("em", policy, kind, level) for policy in trained]
        misled = percent("misled", "distractors", kind, level)
        yield f"| {f'`{kind}`' if level else 'no noise'} | {' | '.join(cells)} | {misled} |"
    pairs = {(row["first"], row["metric"], row["kind"], row["noise"]): row for row in made["differences"]}
    mixture = [row for (first, *_), row in pairs.items() if first == "mixture" and row["noise"] == 0.5]
    assert all(row["low"] <= 0 <= row["high"] for row in mixture)
    means = [round(100 * row["mean"]) for row in mixture]
    yield f"differs from training on distractors by {min(means):+d} to {max(means):+d} points"
    clean = [percent("em", policy, kinds[0], 0.0) for policy in ("mixture", "distractors")]
    yield f"Without noise it is right in {clean[0]} % instead of {clean[1]} %"
    believed = [percent("misled", policy, "counterfactual") for policy in trained[:2]]
    yield f"from {believed[0]} to {believed[1]} % under `counterfactual`"
    injected = [percent("misled", policy, "injection") for policy in trained[:2]]
    yield f"from {injected[0]} to {injected[1]} % under `injection`"
    wrong = [percent("hallucinated", policy, "counterfactual", 1.0) for policy in ("em", "ternary")]
    yield f"with `counterfactual` {wrong[0]} % of the answers are wrong with exact match and {wrong[1]} % with ternary"
    gains = [
        round(100 * pairs["ternary", "truthfulness", kind, 1.0]["mean"]) for kind in ("counterfactual", "incomplete")
    ]
    yield f"truthfulness is {gains[0]} points higher, with `incomplete` {gains[1]}"
    clean = [percent("em", policy, kinds[0], 0.0) for policy in ("em", "ternary")]
    loss = -round(100 * pairs["ternary", "truthfulness", "distractor", 0.5]["mean"])
    yield f"exact match without noise is {clean[1]} % instead of {clean[0]} %"
    yield f"its truthfulness under distractors at noise 0.5 is {loss} points lower"


def engines() -> Iterator[str]:
    """How fast function agents play over a large corpus."""
    measured = record("corpus-episodes")
    yield (
        f"{measured['episodes_per_cpu_s']:.0f} episodes per CPU second with {measured['searches']} searches each over "
        f"{measured['passages']:,} passages"
    )


def robustness() -> Iterator[str]:
    """What the robustness benchmark itself costs."""
    measured = record("robustness-overhead")
    yield f"take {measured['cpu_ms']:.2f} ms of CPU time per episode"
    yield f"{measured['share']:.0%} of a run with an agent that takes {measured['agent_ms']:.0f} ms".replace("%", " %")
    policy = measured["policy"]
    seconds = policy["cpu_s"] / policy["episodes"]
    yield (
        f"of the CPU time of {policy['episodes']} episodes that {policy['agent']} plays, "
        f"{seconds:.1f} CPU seconds each, {100 * policy['share']:.1f} % is not spent"
    )


def leaderboard() -> Iterator[str]:
    """The rows that name an agent or a kind; tests/benchmarks/test_leaderboard.py compares the rest of the page."""
    records = read_records(RESULTS / "robustness")
    names = {f"| {markdown_text(entry['agent'])} |" for entry in records}
    names |= {f"| {kind} |" for entry in records for kind in entry["kinds"]}
    lines = leaderboard_page(records).splitlines()
    yield from dict.fromkeys(line for line in lines if line.startswith(tuple(names)))


def data() -> Iterator[str]:
    """The time to load questions."""
    measured = record("datasets")
    times = measured["times_first_load_of_datasets"]
    yield f"{measured['rows']:,} questions load in {times:.2f} times the CPU time that the library `datasets` takes"


def simulated() -> Iterator[str]:
    """The tiny simulation LLM, and the speed of the client."""
    size = SIMULATOR.stat().st_size
    yield f"a model of {size / 1e6:.1f} MB that comes with the package"
    yield f"{size / 2e6:.1f} million parameters, {size / 1e6:.1f} MB (bf16)"
    tiny = record("simulator-tiny")
    first, last = tiny["levels"][0], tiny["levels"][-1]
    attacks = tiny["attacks"]
    yield (
        f"| useful sets that contain the answer of their hop | {percent(first['useful_with_hop_answer'])} "
        f"| {percent(first['useful_with_sought_before'])} |"
    )
    yield (
        f"| noisy sets that contain an answer of the question | {percent(last['noisy_with_answer'])} "
        f"| {percent(last['noisy_with_answer_before'])} |"
    )
    yield (
        f"| the same under attack, {attacks['queries']} queries | {percent(attacks['all']['after'])} "
        f"| {percent(attacks['all']['before'])} |"
    )
    words, template = (tiny["style"]["levels"][0][writer]["words"] for writer in ("engine", "template"))
    yield (
        f"words from the corpus engine | {words['mean']:.3f} [{words['low']:.3f}, {words['high']:.3f}] "
        f"| a template: {template['mean']:.3f} |"
    )
    rates = [level["documents_per_second"]["mean"] for level in tiny["levels"]]
    yield f"by noise level | {min(rates):.0f} to {max(rates):.0f} |"
    yield f"at {percent(first['useful_too_early'], 0)} of the first hops a useful set states the final answer too early"
    client = record("simulated")
    shares = [f"{level['median']['share']:.2f}" for level in client["throughput"].values()]
    yield (
        f"costs this process {client['client_cpu_ms']:.2f} ms of CPU with 64 in flight, a cached one "
        f"{1e6 / client['hits_per_cpu_second']:.0f} microseconds. With a local server that takes 50 ms, the engine "
        f"reaches {', '.join(shares[:-1])} and {shares[-1]} of concurrency / latency"
    )
    yield f"the 64 of a round takes {64 * client['client_cpu_ms']:.0f} ms of one core"


def simulator() -> Iterator[str]:
    """The model tuned on real searches, and the policies trained for a few steps."""
    real = record("simulator-real")
    pairs = real["pairs"]
    yield f"{pairs['rows']:,} trajectories with {pairs['searches']:,} real Google queries"
    before, after = real["before"]["levels"], real["after"]["levels"]
    useful = [100 * levels[0]["useful_with_answer"]["mean"] for levels in (after, before)]
    yield (
        f"LoRA on {pairs['train_useful'] + pairs['train_noisy']} pairs has an answer in {useful[0]:.0f} % of its "
        f"useful sets ({useful[1]:.0f} % as downloaded)"
    )
    assert after[-1]["noisy_with_answer"]["mean"] == 0
    unguarded = 100 * after[-1]["noisy_with_answer_before"]["mean"]
    yield f"and in none of its noisy ones ({unguarded:.0f} % before the guard)"
    em = {(row["policy"], row["noise"]): 100 * row["em"]["mean"] for row in real["policies"]}
    searches = {(row["policy"], row["noise"]): row["searches"] for row in real["policies"]}
    shown = {name: f"{em[name, 0.0]:.0f} and {em[name, 0.5]:.0f}" for name in ("warm", "simulator", "bm25")}
    yield (
        f"at noise 0 and 0.5: {shown['warm']} before, {shown['simulator']} after the simulator, {shown['bm25']} after "
        "BM25."
    )
    yield (
        f"from {searches['warm', 0.5]:.2f} searches per episode at noise 0.5 to {searches['bm25', 0.5]:.2f} with BM25 "
        f"and {searches['simulator', 0.5]:.2f} with the simulator"
    )


def stability() -> Iterator[str]:
    """The table of faults, and what the text says about them."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in record("stability")["runs"]:
        rows.setdefault((row["setting"], row["behaviour"]), []).append(row | summary(row))

    def seeds(setting: str, behaviour: str, metric: str, scale: float = 1.0) -> list[float]:
        return [scale * row[metric] for row in rows[setting, behaviour]]

    def lower(setting: str, fault: str) -> list[float]:
        return [a - b for a, b in zip(*(seeds(setting, name, "sampled") for name in ("ours", fault)), strict=True)]

    faults = {
        "ours": "this learner",
        "kl-subtracted": "KL subtracted from the loss, as the released ZeroSearch code does",
        "documents-trained": "documents trained on",
        "re-tokenised": "turns decoded and encoded again before training",
    }
    for setting, behaviour in rows:
        held_out, rewards = (seeds(setting, behaviour, metric) for metric in ("sampled", "all"))
        yield (
            f"| {faults[behaviour]} | {' '.join(f'{share:.0f}' for share in held_out)}, "
            f"**{statistics.mean(held_out):.0f}** | {' '.join(f'{reward:.2f}' for reward in rewards)} |"
        )
    lost = lower("varied-tokens", "documents-trained")
    yield f"stays there, {min(lost):.0f} to {max(lost):.0f} points lower"
    steps = [step for row in rows["varied-tokens", "documents-trained"] for step in row["steps"]]
    yield f"stays at {statistics.mean(step['entropy'] for step in steps if 'entropy' in step):.1f} nats"
    greedy = [statistics.mean(seeds("varied-tokens", name, "greedy")) for name in ("documents-trained", "ours")]
    yield f"With greedy answers the loss is smaller: {greedy[0]:.0f} % against {greedy[1]:.0f} %"
    invalid, ours = (seeds("early-ends", name, "invalid_rate", 100) for name in ("re-tokenised", "ours"))
    yield (
        f"{min(invalid):.0f} to {max(invalid):.0f} % of the last turns have no action, "
        f"against {min(ours):.0f} to {max(ours):.0f} %"
    )
    lost = lower("early-ends", "re-tokenised")
    yield f"The seeds end {lost[0]:.0f} and {lost[1]:.0f} points below ours and {-lost[2]:.0f} above"
    for setting in ("early-ends", "varied-tokens"):
        shares = []
        for name in ("re-tokenised", "ours"):
            answers = [row["held_out"]["sampled"] for row in rows[setting, name]]
            count = sum(share["n"] for share in answers)
            shares.append(percent(wilson(sum(share["mean"] * share["n"] for share in answers), count).as_dict()))
        yield f"All {count:,} answers together: {shares[0]} against {shares[1]}"
    lost = lower("varied-tokens", "re-tokenised")
    yield f"The seeds end {-lost[0]:.0f} points above ours and {lost[1]:.0f} and {lost[2]:.0f} below"


def real_llm() -> Iterator[str]:
    """Every row of the record's tables, and the machines."""
    made = record("real-llm")
    yield from (row for row in markdown(made).splitlines() if row.startswith("| ") and "| noise 0" not in row)
    for run in made["runs"]:
        yield f"seed {run['seed']}: {run['machine']['cores']} cores of an {run['machine']['processor']}"


def report() -> Iterator[str]:
    """The cost of the report over many episodes."""
    cost = record("report")["report"]
    yield (
        f"{cost['episodes']:,} stored episodes ({cost['agents']} agents, {cost['kinds']} kinds at four levels and "
        f"none, {cost['questions']} questions; {cost['transcripts_mb']:.0f} MB of transcripts) take "
        f"{cost['cpu_s']:.0f} CPU seconds and {cost['peak_mb']:.0f} MB of memory. "
        f"The page has {cost['page_mb']:.1f} MB, the files next to it {cost['files_mb']:.0f} MB."
    )
    page = record("report-page")
    machine = page["machine"]
    yield (
        f"A page of {page['page_mb']:.1f} MB that lists {page['episodes']:,} episodes is rendered after "
        f"{page['rendered_s']:.2f} s, and filtered {page['filtered_s']:.2f} s after the choice of a filter (headless "
        f"Chromium, wall time, {machine['cores']} cores with a load average of {machine['load_average'][0]:.0f}); its "
        f"main thread takes {page['cpu_s']:.2f} CPU seconds."
    )


PUBLISHED: dict[str, Callable[[], Iterator[str]]] = {
    "README.md": readme,
    "data.md": data,
    "engines.md": engines,
    "leaderboard.md": leaderboard,
    "noise.md": noise,
    "openenv.md": openenv,
    "optimisation-step.md": optimisation_step,
    "report.md": report,
    "robustness.md": robustness,
    "real-llm.md": real_llm,
    "samplers.md": samplers,
    "scale.md": scale,
    "frameworks/scale.md": frameworks_scale,
    "serve.md": serve,
    "simulated.md": simulated,
    "simulator.md": simulator,
    "stability.md": stability,
    "third-party-agents.md": endpoint,
}

# Numbers with a unit that are not measured, by page ("" is every page): what they are, by how they are written.
SETTINGS: dict[str, dict[str, str]] = {
    "": {
        r"noise (?:levels? )?(?:from )?\d*\.?\d+(?:(?:,| \||,? and| to) \d*\.?\d+)*": "noise levels",
        r"(?:Python|GEM|TRL|OpenEnv|vLLM|\w+-[gG]ym|verifiers|verl|ray|Llama) \d+(?:\.\d+)+": "versions",
        r"(?:\[|arXiv:)\d{4}\.\d{5}": "papers",
        r"\[?95 %\]?(?= interval|\)| \|)|\[95 %\]": "the confidence of intervals",
    },
    "algorithms.md": {
        r"\d*\.\d+": "hyperparameters from the papers",
        r"1e-10|1e-7": "bounds asserted in test_against_trl.py",
    },
    "compatibility.md": {r"1\.0|0\.2|0\.3": "versions of the package"},
    "engines.md": {r"10 MB|20 GB": "constants of the code"},
    "environment.md": {r"0\.5": "a default"},
    "gymnasium.md": {r"1\.[14]": "versions"},
    "frameworks/scale.md": {
        r"\$2\.95|\$17\.7, \$35\.4 and \$70\.8|\$586\.7|12,500 tokens/s|12 hours": "from sources that the page names",
    },
    "leaderboard.md": {r"p = [\d., and]+": "noise levels"},
    "metrics.md": {r"below 1e-6": "a bound asserted in test_trainer.py", r"above 1e-3": "advice"},
    "nemo-gym.md": {r"0\.5 to 0\.7 need": "versions"},
    "noise.md": {r"p = [\d., and]+": "noise levels", r"0\.97 instead of 0\.5": "arithmetic: 1 - 0.5 ** 5"},
    "optimisation-step.md": {
        r"(?:64|512) MiB": "chunk sizes of the code",
        r"2\.2 GB|0\.5 GB|0\.7 MB": "arithmetic: 16 and 4 bytes per parameter, 5,760 numbers per token and layer",
    },
    "pretraining.md": {
        r"more than 90 %": "a bound asserted in test_tiny_init.py",
        r"15 %|60 %|0\.75": "defaults of PretrainConfig",
    },
    "protocols.md": {r"\d+\.\d → \d+\.\d": "shares that test_published_loops.py measures; before: commit f357240"},
    "torchrl.md": {r"(?:TorchRL|tensordict|PyTorch|Gymnasium) [\d.]+\d": "versions"},
    "third-party-agents.md": {r"every 30 seconds|600 s(?= unless given)": "constants of the code"},
    "report.md": {r"p = 0\.5|95 %": "definitions", r"16 MB|8 MB": "bounds that a test asserts"},
    "robustness.md": {
        r"p = (?:0, )?[\d., and]+|\| 0, 0\.(?:25, 0\.)?5(?:, 0\.75)?, 1 \|": "noise levels",
    },
    "results.md": {r"below 0\.05": "the level of the test", r"p = [\d., and]+": "noise levels"},
    "rewards.md": {r"\b0\.[1258]\b": "constants of published rewards"},
    "samplers.md": {
        r"1\.5|0\.05|temperature 0\.8": "options and their defaults",
        r"1e-3": "a bound asserted in tests/servers/test_vllm.py",
    },
    "scale.md": {
        r"30 %": "a bound asserted in test_plan.py",
        r"1e-4": "bounds asserted in test_scale.py",
    },
    "search-r1.md": {r"v0\.1 to v0\.3": "versions of Search-R1", r"temperature 1 and top-p 0\.95": "published options"},
    "search-only.md": {r"(?:0\.25|2\.5) %": "bounds asserted in test_guarded_queries.py"},
    "serve.md": {r"30 s": "a limit of the server", r"10 s(econds)?": "a limit of the server"},
    "simulated.md": {
        r"0\.8 |0\.65|1\.0|0\.5|8 MiB|5 times|for 5 s": "defaults of options",
    },
    "simulator.md": {r"1e-[346]": "defaults of --learning-rate"},
    "stability.md": {
        r"\| 0\.[51](?= of| \|)|\(0\.5\)": "defaults of [alarms]",
        r"[24]e-4|0\.2\b|0\.001|[01]\.[23] M|0\.05": "settings of the benchmark",
    },
    "warm-start.md": {
        r"\| 0\.[149] \|": "defaults of --habits",
        r"[125]e-[45]|0\.05": "defaults of options, and advice on --learning-rate",
    },
    "zerosearch.md": {r"top-p 0\.95": "a published option"},
    "web.md": {r"120 s|8 MiB": "defaults of options"},
}

UNIT = r"%|times\b|points\b|[kMG]i?B\b|[mun]?s\b|(?:micro)?seconds?\b|minutes?\b|hours?\b|nats\b|[\w-]+/s\b"
NUMBER = re.compile(
    rf"(?<![\w.-])(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e-?\d+|x\b| ?(?:{UNIT}))|(?<![\w.-])\d*\.\d+(?![\w.]*\d)"
)


def blank(match: re.Match[str]) -> str:
    """Blanks for a match; lines stay where they are."""
    return re.sub(r"[^\n]", " ", match.group())


def prose(page: str) -> str:
    """A page with blanks for blocks of code and the addresses of links."""
    text = re.sub(r"^```.*?^```", blank, page, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$|\]\([^)\n]*\)", blank, text, flags=re.MULTILINE)


def mistakes(name: str, page: str) -> Iterator[str]:
    """What is wrong with the numbers of a page: its line, and what the record says."""
    text, lines = prose(page), page.splitlines()
    for sentence in PUBLISHED.get(name, lambda: iter(()))():
        text, count = re.subn(r"\s+".join(map(re.escape, sentence.split())), blank, text)
        if not count:
            nearest = difflib.get_close_matches(sentence, lines, 1, 0.0)[0]
            yield f"{name}:{lines.index(nearest) + 1}: {nearest}\n  the record says: {sentence}"
    for written, meaning in {**SETTINGS[""], **SETTINGS.get(name, {})}.items():
        text, count = re.subn(written, blank, text)
        if not count and written not in SETTINGS[""]:
            yield f"{name} has no {written!r} ({meaning}): remove it from SETTINGS"
    for number, line in enumerate(re.sub(r"`[^`\n]*`", blank, text).splitlines(), 1):
        for match in NUMBER.finditer(line):
            yield (
                f"{name}:{number}: {match.group()!r} is in no record: add its sentence to PUBLISHED or say in SETTINGS "
                f"what it is: {lines[number - 1]}"
            )


@pytest.mark.parametrize("name", sorted(PAGES))
def test_measured_numbers_are_those_of_their_records(name: str) -> None:
    found = list(mistakes(name, PAGES[name].read_text("utf-8")))
    assert not found, "\n".join(found)


def test_a_stale_number_and_a_number_without_a_record_are_found() -> None:
    page = PAGES["serve.md"].read_text("utf-8")
    stale = [*mistakes("serve.md", page.replace("2,180 requests/s", "2,181 requests/s"))]
    assert "the record says: With an engine that takes 20 ms per call, 200 concurrent clients get 2,180" in stale[0]
    assert any("'2,181 requests/s' is in no record" in line for line in stale)
    (new,) = mistakes("serve.md", page + "It starts in 0.31 s.\n")
    assert new.startswith(f"serve.md:{page.count(chr(10)) + 1}: '0.31 s' is in no record")
