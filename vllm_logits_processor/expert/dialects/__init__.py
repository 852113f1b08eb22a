"""What the servers of experts speak: one module per dialect, behind `Dialect`."""
