"""What the parties agreed on before a row is read."""
