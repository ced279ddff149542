"""Values, errors and pure functions that every floor may use. Imports nothing of ours."""
