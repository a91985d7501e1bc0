"""The demo: from a machine with nothing on it to a write that a real kernel denies."""
