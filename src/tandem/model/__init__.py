"""What training and evaluation share about InternVL."""
