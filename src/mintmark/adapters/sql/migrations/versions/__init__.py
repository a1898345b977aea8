"""One file a revision, numbered; a file that was released is never changed."""
