"""What the privacy gate finds, what it holds back without need, and how long it takes.

A prompt counts as found if the gate does not clear it, and a span if any span that was found
overlaps it, whatever its label: other makers of data call their classes otherwise.
"""
