"""What happens next, and who makes it happen."""
