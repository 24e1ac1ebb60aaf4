"""`python -m evo.cli`."""

from __future__ import annotations

from evo.cli.commands import main

if __name__ == "__main__":
    main()
