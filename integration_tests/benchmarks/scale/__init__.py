"""10,000 devices and 1,000 streams: server time, memory, bytes, and where one process ends.

``python -m integration_tests.benchmarks.scale``. From the command to the table::

    __main__    options
    fleet       a grid of synthetic devices that answers at once, in this process
    watching    the real strategy with a stopwatch on each stage, and the process's memory
    federated   whole runs over ever more devices
    replies     what one training reply costs at the server, at the model's real size
    serving     bodies and processor time of expert calls, and the cost of fusion
    summary     rows and remarks
"""
