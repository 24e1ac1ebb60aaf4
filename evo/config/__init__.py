"""What a user writes: the schema of a configuration, its checks, and what is derived from it before anything runs."""
