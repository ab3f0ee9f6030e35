"""Speed: the package next to its peers."""
