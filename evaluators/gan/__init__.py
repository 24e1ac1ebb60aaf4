"""Unpaired image translation: generators, discriminators, their training, and what a compressed pair of generators is worth."""
