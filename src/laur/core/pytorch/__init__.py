"""PyTorch form of the denoiser and decoder."""
