"""Stand-ins for tests of what builds on this package: experts, tokenizers, engines, runners."""
