"""What dltrain does, a file a verb: plain functions with typed results."""
