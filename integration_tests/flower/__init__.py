"""Real Flower runs: simulated, deployed, and what they leave."""
