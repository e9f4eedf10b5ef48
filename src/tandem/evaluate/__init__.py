"""Generate answers, then score them: two stages, the second repeatable alone."""
