"""Checkpoints from folders, single files and names."""
