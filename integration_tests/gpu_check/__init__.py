"""What only a GPU can show, measured by one command: ``make gpu-check``.

It runs from a plain checkout, without network, with the Python that is there: a subject whose
packages are missing says which. ``python -m integration_tests.gpu_check.page FILE.json`` writes
the page of the results.
"""
