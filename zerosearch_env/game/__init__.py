"""The rules of the game, without any input or output: episode, rules, noise, rewards."""
