"""Seconds of a whole round with Floe over those of a round with Flower's FedAvg.

Both are ``flwr run`` in the local simulation, with the same ClientApp, data, number of nodes, rank,
local steps and evaluation, in turn. A round lasts from the end of one evaluation to the end of the
next, so it has configuring, both exchanges, aggregating and what stands between. The first round of
every run is dropped: nodes load the model in it. What is printed are medians over all other rounds.
"""
