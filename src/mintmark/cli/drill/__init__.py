"""What `mintmark drill` is made of: guests of a running cluster, verifiers that are asked without pause, and
what was measured as a table and a picture."""
