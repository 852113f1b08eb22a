"""What the documented installations install."""
