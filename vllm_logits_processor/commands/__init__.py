"""The commands that the serving half adds to `floe-llm`.

They are imported for every call of `floe-llm`, so each imports heavy packages in its function.
"""
