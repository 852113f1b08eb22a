"""What the benchmarks of decoding share: servers, and an expert of a chosen latency."""
