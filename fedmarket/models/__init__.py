"""Networks that private training can train, their flat parameter vector, and the model on disk."""
