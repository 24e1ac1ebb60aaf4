"""The run directory: journal, commits, lease, and the state of an algorithm as a table. Nothing stored is a pickle."""
