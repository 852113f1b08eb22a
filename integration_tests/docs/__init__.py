"""README, the pages' code and the built site."""
