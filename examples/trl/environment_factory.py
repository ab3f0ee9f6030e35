"""TRL's GRPOTrainer samples while the shipped tiny policy calls the tools `search` and `answer`: its reward rises.

    python examples/trl/environment_factory.py

A chat model needs no more than `main`. The tiny policy knows only tags, so `tag_tokenizer` writes its calls as tags.
"""

from __future__ import annotations

import re
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from zerosearch_agents.policy.files import policy_path
from zerosearch_env import SessionSource
from zerosearch_env.integrations.trl import make_dataset, make_environment_factory

PARAMETERS = {"search": "query", "answer": "text"}
TEMPLATE = """
{%- for message in messages -%}
{%- if message.role == 'tool' %}{{ '\n\n<information>' + message.content + '\n</information>\n\n' }}
{%- else %}{{ message.content }}{% endif -%}
{%- for call in message.tool_calls or [] -%}
{{ '<' + call.function.name + '>' }}{% for name, value in call.function.arguments.items() %}{{ value }}
{%- if name not in ('query', 'text') %}{{ name }}{% endif %}{% endfor %}{{ '</' + call.function.name + '>' }}
{%- endfor -%}
{%- endfor -%}
"""


class TagTokenizer(PreTrainedTokenizerFast):
    """Reads `<search>` and `<answer>` as calls of the tools with these names."""

    def parse_response(self, response: list[int], *_: Any, **__: Any) -> dict[str, Any]:
        """The message of a turn."""
        text = self.decode(response, skip_special_tokens=True)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if call := re.search(r"<(search|answer)>(.*?)</\1>", text, re.DOTALL):
            function = {"name": call[1], "arguments": {PARAMETERS[call[1]]: call[2].strip()}}
            message |= {"content": text[: call.start()], "tool_calls": [{"type": "function", "function": function}]}
        return message


def tag_tokenizer(folder: str) -> TagTokenizer:
    """The tokenizer of a policy that writes tags, with a chat template."""
    tokenizer = TagTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.response_template = {"read by": "parse_response"}  # TRL asks whether there is one
    return tokenizer


def main(steps: int = 24, questions: int = 4) -> list[float]:
    """Train for some steps of 8 rollouts per question; returns the mean reward of each step."""
    folder = str(policy_path("tiny"))
    tokenizer = tag_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    ends = ["</search>", "</answer>", tokenizer.eos_token]
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(ends)  # a chat model ends its turns itself
    source = SessionSource(prompt_template="Question: {question}\n", noise_level=0.25, top_k=2, max_turns=3)
    args = GRPOConfig(
        output_dir="runs/trl",
        max_steps=steps,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=questions,
        num_generations=8,
        max_completion_length=800,  # of a whole episode, documents included
        max_tool_calling_iterations=source.rules.max_turns + 1,
        generation_kwargs={"max_new_tokens": 64},  # per turn
        learning_rate=4e-4,
        beta=0.0,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
    )
    trainer = GRPOTrainer(
        model,
        environment_factory=make_environment_factory(source, tokenizer, args),
        train_dataset=make_dataset(source, count=24),
        processing_class=tokenizer,
        args=args,
    )
    trainer.train()
    return [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]


if __name__ == "__main__":
    rewards = main()
    third = len(rewards) // 3
    print(f"mean reward of the first {third} steps: {sum(rewards[:third]) / third:.3f}")
    print(f"mean reward of the last {third} steps: {sum(rewards[-third:]) / third:.3f}")
