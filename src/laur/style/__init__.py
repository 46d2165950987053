"""A different picture: style adapters."""
