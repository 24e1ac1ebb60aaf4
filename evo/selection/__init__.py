"""Who survives, who mates, and who deserves a measurement."""
