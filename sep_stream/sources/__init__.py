"""Where events come from, and how they get into the log."""
