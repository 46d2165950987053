"""Values and maths: Recipe, Plan, Checkpoint, errors, noise schedule, sampler tables, guidance, noise, denoisers."""
