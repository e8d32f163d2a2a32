"""Small problems, one file each; `template.py` says what a file holds."""
