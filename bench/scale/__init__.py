"""Measurements with simulated nodes, against a real API server."""
