"""Held-out loss of Floe and of other ways of federated LoRA, within one virtual wall-clock budget.

``python -m integration_tests.benchmarks.federated_quality``. From the command to the table::

    __main__    options
    protocol    what is the same for all methods
    runner      levels x seeds x methods, in worker processes; results as they come
    world       the devices of one level and seed: data, hardware, profile
    workbench   real local training and evaluation, remembered where it would be repeated
    clock       what a round costs on the devices
    floe        FloeStrategy itself, on a grid in this process
    baselines   the other methods; their arithmetic is in `averaging`
    summary     mean and spread; the table, and what it says
"""
