"""Training: distil, fine-tune and measure.

A run is a pure function of its configuration and its data: which samples an update sees, their noise, timesteps and
captions are all keyed by the update's number, so a run that was interrupted, split over processes or over half
batches goes the same way.
"""
