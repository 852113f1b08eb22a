"""The demonstration: train a small model across devices, then let it answer with a large one.

``python -m integration_tests.demo`` runs it; ``make demo`` sets everything up first.
"""
