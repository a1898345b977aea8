"""What the pure part and the use cases need of the world: protocols with numbered clauses."""
