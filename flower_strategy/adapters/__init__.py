"""LoRA adapters on the server: their factors, sums and means."""
