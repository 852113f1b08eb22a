"""The expert: the other model, its servers, its requests and its replies."""
