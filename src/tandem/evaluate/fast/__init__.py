"""Packed generation: a paged cache, prompts in one row, steps for all slots at once. `engine.py` puts it together.

Modules of this package import torch, all but this one; the rest of the room imports them inside functions.
"""
