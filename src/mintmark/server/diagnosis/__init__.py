"""What ``mintmark doctor`` thinks of what was found: pure decisions, each with the fix for what is wrong."""
