"""Turns pairs into logits. Knows no Flask and no scheduling."""
