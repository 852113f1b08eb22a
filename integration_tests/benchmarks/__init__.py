"""Benchmarks: ``python -m integration_tests.benchmarks.NAME``, each with ``--help`` and ``--json``.

Standard output holds the table, or with ``--json`` one JSON object alone; progress goes to standard
error.
"""
