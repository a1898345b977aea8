"""The HTTP surface: one file per endpoint family."""
