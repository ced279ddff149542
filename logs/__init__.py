"""supervisord, which keeps the lines of its programs in one shape."""
