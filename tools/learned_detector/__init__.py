"""Trains the model of the learned detector, from sentences that are generated."""
