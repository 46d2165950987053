"""The command line."""

import time

BEGUN = time.perf_counter()
"""When the command started, before it imported anything: what "in all" counts from."""
