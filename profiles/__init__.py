"""Policy text in, verdict or policy text out: what a profile says, and whether it may be published.

Called by the operator before it publishes and by the agent before it loads; imports only `crds`.
"""
