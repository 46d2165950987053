"""Prepared sets: pictures with captions, rendered, cropped and encoded once, read from disk as they are needed."""
