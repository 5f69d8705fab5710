"""What notebooks and scripts call: the commands as functions whose answers are values, frames and figures."""
