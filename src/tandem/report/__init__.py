"""What people read of a Run: everything here comes from the store alone."""
