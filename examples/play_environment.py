"""Play ZeroSearch-v0: one episode by hand, then a vector of environments whose noise rises with a curriculum.

python examples/play_environment.py
"""

from __future__ import annotations

import gymnasium as gym

import zerosearch_env  # noqa: F401  registers the environment


def one_episode(noise_level: float) -> float:
    """Search for the question, answer with the title of the first document; returns the reward."""
    env = gym.make("ZeroSearch-v0", noise_level=noise_level)
    observation, info = env.reset(seed=0)
    print(observation)
    observation, _, _, _, info = env.step(f"<search>{info['question']}</search>")
    print(observation)
    print("noisy:", info["noisy"], " answer in documents:", info["answer_in_documents"])
    title = info["documents"][0].title
    _, reward, terminated, _, info = env.step(f"<answer>{title}</answer>")
    print(f"predicted {info['prediction']!r}, gold {info['answers']}, reward {reward}, terminated {terminated}")
    env.close()
    return float(reward)


def many_episodes(steps: int = 40) -> float:
    """Random well-formed actions in eight environments; returns the noise level that the curriculum reached."""
    envs = gym.make_vec("ZeroSearch-v0", num_envs=8, noise_schedule="exp", curriculum_episodes=100)
    _, infos = envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(steps):
        _, _, _, _, infos = envs.step(envs.action_space.sample())
    level = float(infos["noise_level"].max())
    print(f"noise level after {steps} steps of 8 environments: {level:.2f}")
    envs.close()
    return level


if __name__ == "__main__":
    one_episode(noise_level=0.0)
    many_episodes()
