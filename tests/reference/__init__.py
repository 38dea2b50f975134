"""The whole pipeline once more, event by event in plain Python: the oracle of every fast path.

Written from the definition of `sep-metrics/1`; nothing of the package is imported. Times of events are integer
microseconds, those of bars and windows epoch seconds; prices on the wire are Decimal, inside integer points.
"""
