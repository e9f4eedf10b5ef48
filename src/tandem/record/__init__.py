"""What the store keeps of a Run beside its results: what was asked for, and which executions count."""
