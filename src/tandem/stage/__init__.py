"""The pod's process: one attempt of one stage, the same on this machine and in a cluster."""
