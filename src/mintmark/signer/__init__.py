"""The process that holds private keys, and how the rest of the node talks to it."""
