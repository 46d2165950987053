"""Many recipes from a file, each drawn once, however often it is interrupted: on this machine or on a Ray cluster."""
