"""supervisord: what runs inside it, and how our commands call it. Its library lives here only."""
