"""Networks that come with the project; any other is named by its own factory."""
