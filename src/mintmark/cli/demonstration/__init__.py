"""What `mintmark demo` is made of: the scenario, its service, and what a cluster needs around it."""
