"""What runs on a device: its model, hardware, training and task embedding."""
