"""What the benchmarks of decoding share."""
