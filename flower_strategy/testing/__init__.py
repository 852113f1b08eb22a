"""Stand-ins for tests of what builds on this package: grids of one process, tiny models."""
