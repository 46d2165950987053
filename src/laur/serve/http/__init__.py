"""HTTP: Laur's own API, and those of OpenAI, AUTOMATIC1111, Cog and Replicate, over one Service."""
