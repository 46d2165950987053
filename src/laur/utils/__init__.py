"""Domain-free helpers: atomic files, sheets, terminal pictures, attention maps, debugging."""
