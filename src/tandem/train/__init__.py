"""From a meta file to an adapter."""
