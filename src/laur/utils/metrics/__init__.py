"""How near one set of pictures is to another, on features: numpy alone, in float64, without a network or a file.

    gaussian    Fréchet distance (FD; FID on Inception's features)
    kernels     KID and CMMD: squared maximum mean discrepancy
    manifold    precision and recall, density and coverage
    agreement   retrieval, pass@k, PSNR
    bootstrap   resampling, and intervals of what was measured

Features are (n, d): a row for each picture.
"""
