"""Programs of the repository that are not installed with Floe."""
