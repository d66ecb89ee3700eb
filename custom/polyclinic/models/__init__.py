"""Modality encoders and the site model that assembles what a hospital holds."""
