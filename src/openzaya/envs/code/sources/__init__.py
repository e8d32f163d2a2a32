"""Loaders of public data sets of programming problems, one file a family of formats."""
