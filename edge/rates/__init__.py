"""How much one caller may ask for in a time, counted over all edges."""
