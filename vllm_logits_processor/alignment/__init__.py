"""From the expert's next-token distribution to one over the host's vocabulary.

Read in the order of the data: :mod:`vocabulary` (tokens as bytes), :mod:`maps` (which tokens mean
the same), :mod:`prefix` (the text so far as expert tokens), :mod:`align` (the maths of one decoding
step).
"""
