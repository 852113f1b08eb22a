"""Seconds, error and memory of Floe's aggregation against summing and decomposing dense matrices.

Devices have ranks drawn from 4 to 32 and independent random factors: nothing that aggregation could
exploit is shared. Both sides get float32 factors, may use the same threads, and return the best
rank-32 approximation of the weighted mean.
"""
