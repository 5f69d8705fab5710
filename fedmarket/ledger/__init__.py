"""The privacy ledger: signed entries at the party, a Merkle log at the server, and what both are made of."""
