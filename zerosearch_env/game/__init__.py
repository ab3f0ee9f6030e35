"""The rules of the game, without input or output: episode, rules, noise, rewards."""
