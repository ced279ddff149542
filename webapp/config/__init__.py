"""Settings: where they come from, what they must satisfy, which paths follow from them."""
