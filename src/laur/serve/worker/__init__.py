"""Workers: they take jobs from a queue, draw them together in one Engine, and put the results into a store."""
