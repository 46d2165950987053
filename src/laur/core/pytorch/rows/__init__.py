"""Per-row adapters: every row of a batch has its own low-rank differences, y = W x + B (A x).

- `factors`  what one row adds: factors by layer, several adapters of a row side by side
- `batch`    which rows of a call have which set; their factors gathered and padded to rank buckets
- `product`  B (A x) over rows, for linears and convolutions
- `choice`   where a merged weight for each set beats the product
- `plain`    per-row products on diffusers' own modules, by hooks
- `kernel`   the same product as one Triton kernel, for CUDA
- `parallel` the same product over several processes

Heterogeneous batching follows S-LoRA (arXiv 2311.03285, section 5) and Punica (arXiv 2310.18547); what a diffusion
model changes is told in docs/adapter-batching.md.
"""
