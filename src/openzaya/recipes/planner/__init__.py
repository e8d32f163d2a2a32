"""What a phase costs on given hardware: FLOPs, memory, time and bytes on the wire.

The package is about recipes, so it stands beside them; `train` would bring torch in, and this
needs none: it imports `core` and `model.config` alone. All of it is arithmetic without state.
"""
