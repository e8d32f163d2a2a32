"""Recipes: typed Python functions that return settings, and the drivers that run them in order."""
