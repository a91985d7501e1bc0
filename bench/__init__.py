"""Measurements: what Hauberk takes, held against what it could not do without. Each is a command."""
