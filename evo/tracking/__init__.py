"""Searches recorded where teams look for them."""
