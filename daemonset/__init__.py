"""The agent: one a node, it makes the kernel hold what the ProfileRevisions say and reports what it holds.

Read in this order: `main` starts it, `cluster` brings the revisions, `agent` hands them to its loops, `plan`
decides, `apparmor` does it through `host`, `report` tells it.
"""
