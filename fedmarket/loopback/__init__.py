"""A whole federation between processes of this machine, by the commands that partners and operator give."""
