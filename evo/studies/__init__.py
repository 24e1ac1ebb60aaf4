"""The top floor of a search: configurations become the objects that one needs, whatever it compresses."""
