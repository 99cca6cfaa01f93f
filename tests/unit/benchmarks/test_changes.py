from benchmarks.changes import moments


def test_changes_are_spread_evenly_over_the_time_that_counts() -> None:
    assert moments(100.0, 110.0, 4) == [100.0, 102.5, 105.0, 107.5]
