"""The sum of the survivors' integer updates and nothing else, and the server's step with it."""
