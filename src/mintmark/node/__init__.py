"""The composition root: the processes of a node, and the only importer of adapters."""
