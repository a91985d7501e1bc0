"""The contract of Hauberk: its API kinds, their states and reasons, its names and its errors.

Everything else imports from here and this imports nothing of the project, so that an agent, the
operator and the command line can differ in version and still agree on what they say to each other.
"""
