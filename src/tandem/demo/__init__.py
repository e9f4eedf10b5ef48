"""The demo: real handwritten digits, a tiny InternVL that can read them, and what one Run then teaches it."""
