"""From a party's file to arrays, by public bounds only."""
