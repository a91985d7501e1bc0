"""A throwaway Kubernetes whose nodes are real Linux kernels with AppArmor or SELinux.

`python -m lab` is the command (see commands.py); `lab.controlplane.ControlPlane` is also a library.
Nothing here knows of the product that is tried on it.
"""
