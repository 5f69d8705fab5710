"""What a partner runs."""
