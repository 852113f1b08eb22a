"""The commands that the federated half adds to `floe-llm`.

They are imported for every call of `floe-llm`, so each leaves what is heavy to its function.
"""
