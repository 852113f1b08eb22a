"""The commands of `floe-llm`, one file each; `add_to` adds a command to the parser."""
