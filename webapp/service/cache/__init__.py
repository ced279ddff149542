"""The pair cache: scores in memory, and in Redis for all workers."""
