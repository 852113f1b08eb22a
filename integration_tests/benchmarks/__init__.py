"""Benchmarks: ``python -m integration_tests.benchmarks.NAME``, each with ``--help`` and ``--json``.

Each is a folder: ``__main__`` has its options, ``measure`` gives its values, ``result`` makes a
table and remarks of them, and ``figure`` draws them. Standard output holds the table, or with
``--json`` one JSON object alone; progress goes to standard error.
"""
