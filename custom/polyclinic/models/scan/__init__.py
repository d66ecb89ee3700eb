"""Segmentation of scans of which any sequence may be missing: FedMEPD's network, 2-D and 3-D."""

from polyclinic.models.scan.network import ScanModel, ScanOutput
from polyclinic.models.scan.settings import ScanNetwork, least_edge, parse_network

__all__ = ["ScanModel", "ScanNetwork", "ScanOutput", "least_edge", "parse_network"]
