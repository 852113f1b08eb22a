"""Shared by the benchmarks of decoding: servers, and an expert of a chosen latency."""
