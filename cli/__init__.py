"""The command line: `hauberk`, which kubectl finds as `kubectl hauberk` too.

Imports `crds` and `profiles`. Its libraries are not in the image: install `hauberk[cli]`.
"""
