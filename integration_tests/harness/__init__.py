"""What starts and ends real things: processes, servers, Flower runs, environments, tiny models."""
