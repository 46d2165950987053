"""From pixels to files: a registry of renderers."""
