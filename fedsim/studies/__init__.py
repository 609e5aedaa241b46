"""Studies: one scenario with axes, run cell by cell, and what is read off all of them."""
