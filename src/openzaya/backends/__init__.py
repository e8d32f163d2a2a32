"""Samplers: our engine in this process, servers over HTTP; and what this machine can do."""
