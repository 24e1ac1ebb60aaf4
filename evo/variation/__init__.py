"""How new genomes are made: operators, good genomes of a separable cheap step, and repair below limits."""
