"""`zerosearch sft`: fine-tune a policy on episodes, so that it knows the format before reinforcement learning.

    zerosearch sft --policy MODEL --input episodes.jsonl --output runs/sft
    zerosearch train --policy runs/sft/policy ...

The policy's own turns are trained on; prompts and documents are not. OUTPUT contains manifest.json, metrics.jsonl,
checkpoints/ and, at the end, policy/. To resume a run that was killed or interrupted, run the same command again.
"""

from __future__ import annotations

import shlex
import sys

from zerosearch_env.command_line import read_options
from zerosearch_env.privacy import redact

from ..config.sft import SftConfig


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments after `zerosearch sft`; None uses those of the process.

    Returns:
        The exit status: 0, or 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    config = read_options(SftConfig, argv, "zerosearch sft", description=__doc__)
    from ..policy.hub import check_push, push_policy
    from ..processes.workers import launch_rank
    from .policy import RESULT, run_sft

    if launch_rank() == 0:
        check_push(config.push_to_hub)
    result = run_sft(config, command=redact(shlex.join(["zerosearch", "sft", *argv])))
    if launch_rank() != 0:
        return 0
    out = result.get
    print(
        f"{out('train_episodes')} episodes of {out('episode_tokens')} tokens, {out('trained_tokens')} of them trained; "
        f"{out('held_out_episodes')} held out"
    )
    left = [f"{out(name)} {what}" for name, what in _LEFT_OUT.items() if out(name)]
    if left:
        print(f"left out: {', '.join(left)}")
    losses = [f"{name.replace('_', ' ')} {result[name]:.3f}" for name in ("loss", "held_out") if name in result]
    print(f"{out('steps')} steps in {out('seconds'):,.0f} s; {', '.join(losses)}")
    if result["stopped"] != "finished":
        cause = "the time limit" if result["stopped"] == "time" else "Ctrl-C"
        print(f"stopped by {cause}; the same command again continues the run")
        return 130 if result["stopped"] == "interrupt" else 0
    print(f"policy   {config.output / RESULT}")
    print(f"metrics  {config.output / 'metrics.jsonl'}")
    if config.push_to_hub is not None:
        print(f"pushed to {push_policy(config.output / RESULT, config.push_to_hub)}")
    return 0


_LEFT_OUT = {"too_long": "too long for the context or a turn", "unfinished": "without an end"}
