"""What people look at: terminal, pages, figures, notebooks."""
