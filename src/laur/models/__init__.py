"""The embedded checkpoint and its adapters."""
