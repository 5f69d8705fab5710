"""What an attacker learns of one customer: the limit that a guarantee sets, and bounds on what an attack attains."""
