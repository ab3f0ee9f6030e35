"""The Gymnasium environments: single and vector."""
