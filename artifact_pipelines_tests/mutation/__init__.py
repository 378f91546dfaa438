"""Guards taken out one at a time, to show that each has a test that misses it."""
