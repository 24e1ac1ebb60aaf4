"""Shared-weight networks: one set of weights, from which every plan takes its own network."""
