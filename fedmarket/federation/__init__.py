"""A run as two state machines without network or files: a party and a coordinator that exchange messages."""
