"""Faults, load and bad input on one cluster: started for these tests, and ended after them."""
