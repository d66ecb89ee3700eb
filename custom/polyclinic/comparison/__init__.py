"""Federations in one process: the reference for FLARE, and the experiment behind ``compare``."""

from polyclinic.comparison.federation import FederationResult, run_federation

__all__ = ["FederationResult", "run_federation"]
