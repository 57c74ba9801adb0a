"""What both packages share and what needs no framework."""
