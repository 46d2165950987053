"""Serving: jobs, queues, result stores, caches and workers around the Engine. Knows nothing of training."""
