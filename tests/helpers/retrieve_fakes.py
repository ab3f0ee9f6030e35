"""Retrieval servers of every dialect, and the engine that asks them."""

from __future__ import annotations

from typing import Any

from zerosearch_benchmarks.speed.chat_server import Call, Reply
from zerosearch_env.engines import make_engine

FAST = {"attempts": 2, "backoff_s": 0.005, "total_s": 5.0, "read_s": 2.0}


def engine(url: str, **options: Any) -> Any:
    return make_engine({"kind": "retrieve", "argument": url, "http": FAST, **options})


def passages(query: str, count: int, held: int = 200) -> list[tuple[str, str]]:
    """Ranks of a query; every fourth one states the answer."""
    return [
        (f"Title {rank}", f"On {query[:30]}: " + ("Paris" if rank % 4 == 0 else f"rank {rank}"))
        for rank in range(min(count, held))
    ]


def shaped(dialect: str, queries: list[str], count: int, single: bool, held: int = 200) -> Any:
    """What a server of a dialect answers, written from the table of wire formats and not from our own server."""
    found = [passages(query, count, held) for query in queries]
    plain = [[{"id": str(i), "contents": f'"{t}"\n{x}'} for i, (t, x) in enumerate(row)] for row in found]
    scored = [[{"document": d, "score": 9.0 - i} for i, d in enumerate(row)] for row in plain]
    if dialect in ("search-r1", "search-r1-rerank", "verl", "skyrl"):
        return {"result": scored}
    if dialect == "search-r1-proxy":
        return {"result": [[{"document": {"contents": d["contents"]}} for d in row] for row in plain]}
    if dialect == "asearcher":
        return {"result": [[{"contents": d["contents"], "url": f"https://x/{d['id']}"} for d in row] for row in plain]}
    if dialect == "gem":
        return {"result": scored[0]}
    if dialect == "zerosearch-wiki":
        return [{"text": f"{t} {x}"} for t, x in found[0]]
    if dialect == "rllm":
        return {"query": queries[0], "results": scored[0], "num_results": len(scored[0])}
    if dialect == "r1-searcher":
        return {"queries": queries, "answers": [[f"{i} {t} {x}" for i, (t, x) in enumerate(row)] for row in found]}
    assert dialect == "research"
    pair = [plain, [[9.0 - i for i in range(len(row))] for row in plain]]
    return [part[0] for part in pair] if single else pair


class Server:
    """A retrieval server of one dialect; keeps what it was asked."""

    def __init__(self, dialect: str = "search-r1", held: int = 200) -> None:
        self.dialect, self.held = dialect, held
        self.calls: list[Call] = []

    async def __call__(self, call: Call) -> Reply:
        self.calls.append(call)
        asked = call.body.get("queries", call.body.get("query"))
        single = isinstance(asked, str)
        count = next(call.body[name] for name in ("topk", "top_k", "k", "top_n", "topk_rerank") if name in call.body)
        return Reply(shaped(self.dialect, [asked] if single else asked, count, single, self.held))
