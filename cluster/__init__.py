"""What every replica agrees on: names, errors, config, catalog, stores, policies.

Plain Python: nothing in this room reads a clock, speaks HTTP or starts Ray, except that `actors`
runs its parts as Ray actors. Time and randomness are passed in.
"""

if __name__ != "thornback.cluster":  # a second copy of a class is a different class
    raise ImportError(f"import thornback.cluster, not {__name__}")
