"""From outside to tensors: the abstract encoder and its first form, text."""
