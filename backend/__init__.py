"""Fluid's backend: what agents and operators talk to. Floors are listed in CONTRIBUTING; imports go down only."""

__version__ = "0.1.0"
