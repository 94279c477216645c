"""What a teacher reads in front of a completion: examples become views (method.md calls them x+, c_k and x-)."""
