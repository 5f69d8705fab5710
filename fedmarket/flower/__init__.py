"""Flower at the rim: messages to records and back, both apps' bodies, and a grid in one process."""
