"""Measurements on the lab's real kernels."""
