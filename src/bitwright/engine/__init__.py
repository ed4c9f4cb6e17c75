"""Solves nothing by itself: carries out plans."""
