"""Turning WordNet and small dialogue collections into training text (standard library only)."""
