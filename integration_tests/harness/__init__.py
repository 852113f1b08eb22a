"""Helpers that start and stop processes, servers and Flower runs; environments, tiny models."""
