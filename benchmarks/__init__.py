"""Measurements of speed and accuracy; every one prints a JSON document as its last line."""
