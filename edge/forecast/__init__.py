"""What an edge knows of the future: how fast requests are taken, when a new one would be, and when to come back."""
