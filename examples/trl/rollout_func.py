"""TRL's GRPOTrainer trains the shipped tiny policy on token-exact episodes: the reward rises in minutes on a CPU.

python examples/trl/rollout_func.py
"""

from __future__ import annotations

from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from zerosearch_agents.integrations.trl import RolloutFunc, zerosearch_reward
from zerosearch_agents.policy.files import policy_path
from zerosearch_env import SessionSource
from zerosearch_env.integrations.trl import make_dataset


def main(steps: int = 24, questions: int = 4) -> list[float]:
    """Train for some steps of 8 rollouts per question; returns the mean reward of each step."""
    folder = policy_path("tiny")  # a policy of 1.2 million weights that knows the tags; yours is a name on the hub
    source = SessionSource(prompt_template="Question: {question}\n", noise_level=0.25, top_k=2, max_turns=3)
    args = GRPOConfig(
        output_dir="runs/trl",
        max_steps=steps,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=questions,
        num_generations=8,
        max_completion_length=800,  # of a whole episode, documents included
        mask_truncated_completions=True,
        learning_rate=4e-4,
        beta=0.0,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
    )
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder, dtype="float32"),
        reward_funcs=zerosearch_reward,
        rollout_func=RolloutFunc(source, turn_tokens=64),
        train_dataset=make_dataset(source, count=24),
        processing_class=AutoTokenizer.from_pretrained(folder),
        args=args,
    )
    trainer.train()
    return [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]


if __name__ == "__main__":
    rewards = main()
    third = len(rewards) // 3
    print(f"mean reward of the first {third} steps: {sum(rewards[:third]) / third:.3f}")
    print(f"mean reward of the last {third} steps: {sum(rewards[-third:]) / third:.3f}")
