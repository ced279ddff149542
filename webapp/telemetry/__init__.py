"""What the service tells of itself. Observers may fail; work may not."""
