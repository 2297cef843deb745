"""Fluid's backend: what agents and operators talk to. Imports go down only (`lint-imports`)."""

__version__ = "0.1.0"
