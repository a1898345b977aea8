"""The HTTP surface: one file for each family of endpoints, and one place where errors become responses."""
