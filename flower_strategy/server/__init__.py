"""The server's side of a run: rounds, replies, checkpoints and export."""
