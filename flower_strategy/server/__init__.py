"""The server's side of a round: what is sent, what comes back, what a run leaves."""
