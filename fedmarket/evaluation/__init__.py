"""How good the model is for marketing, and what privacy cost."""
