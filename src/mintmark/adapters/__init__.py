"""One backend a file; each is imported only when it is configured."""
